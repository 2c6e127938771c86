package router

import (
	"bytes"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/portolan-net/portolan/internal/datapath"
)

var pairs = [][2]netip.AddrPort{
	{netip.MustParseAddrPort("172.30.0.2:40000"), netip.MustParseAddrPort("198.51.100.7:80")},
	{netip.MustParseAddrPort("[fd00:30::2]:40000"), netip.MustParseAddrPort("[2001:db8::7]:80")},
}

// checkSum fails when the upper layer's checksum is not right.
func checkSum(t *testing.T, p packet) {
	t.Helper()
	var s uint32
	if p.proto != protoICMP {
		s = sum(sum(0, p.src.AsSlice()), p.dst.AsSlice()) + uint32(p.proto) + uint32(len(p.payload))
	}
	if got := fold(sum(s, p.payload)); got != 0xffff {
		t.Errorf("checksum of protocol %d sums up to %#x", p.proto, got)
	}
	if p.src.Is4() && fold(sum(0, p.raw[:header4])) != 0xffff {
		t.Error("checksum of the IPv4 header is wrong")
	}
}

func TestBuildUDPParses(t *testing.T) {
	for _, pair := range pairs {
		for _, payload := range [][]byte{nil, {1}, bytes.Repeat([]byte{7}, 1400)} {
			b := buildUDP(pair[0], pair[1], payload)
			p, ok := parsePacket(b)
			if !ok || p.src != pair[0].Addr() || p.dst != pair[1].Addr() || p.proto != protoUDP || !bytes.Equal(p.payload[8:], payload) {
				t.Errorf("%v parses as %v, %v", pair, p, ok)
			}
			checkSum(t, p)
		}
	}
}

func TestBuildReset(t *testing.T) {
	for _, pair := range pairs {
		syn := packet{src: pair[0].Addr(), dst: pair[1].Addr()}
		// With data (TCP Fast Open) and a sequence number that wraps.
		b := buildReset(syn, tcpHeader{srcPort: 40000, dstPort: 80, seq: 0xfffffffe, length: 5})
		p, ok := parsePacket(b)
		if !ok {
			t.Fatal("reset does not parse")
		}
		checkSum(t, p)
		h, ok := parseTCP(p.payload)
		if !ok || h.srcPort != 80 || h.dstPort != 40000 || h.flags != flagRST|flagACK || p.src != syn.dst {
			t.Errorf("reset = %+v", h)
		}
		if ack := p.payload[8:12]; !bytes.Equal(ack, []byte{0, 0, 0, 4}) {
			t.Errorf("acknowledges %v, want 4", ack)
		}
	}
}

func TestBuildErrorQuotesWithinLimits(t *testing.T) {
	for i, limit := range []int{maxError4, maxError6} {
		src, dst := pairs[i][0], pairs[i][1]
		for _, size := range []int{0, 100, 9000} {
			orig := buildUDP(src, dst, make([]byte, size))
			code, _ := unreachable(datapath.Refused, i == 1)
			b := buildError(dst.Addr(), src.Addr(), code, orig)
			p, ok := parsePacket(b)
			if !ok || len(b) > limit {
				t.Fatalf("error of %d bytes, parses: %v", len(b), ok)
			}
			checkSum(t, p)
			if quote := p.payload[8:]; !bytes.HasPrefix(orig, quote) || len(quote) < min(len(orig), 500) {
				t.Errorf("quotes %d bytes of %d", len(quote), len(orig))
			}
		}
	}
	if _, ok := unreachable(datapath.Silent, false); ok {
		t.Error("silence has a code")
	}
}

func TestAnswerable(t *testing.T) {
	good := netip.MustParseAddr("192.0.2.1")
	for _, bad := range []string{"224.0.0.1", "255.255.255.255", "0.0.0.0", "127.0.0.1", "::", "::1", "ff02::1"} {
		addr := netip.MustParseAddr(bad)
		if answerable(good, addr) || answerable(addr, good) {
			t.Errorf("%s is answerable", bad)
		}
	}
	if !answerable(good, netip.MustParseAddr("8.8.8.8")) {
		t.Error("unicast is not answerable")
	}
}

func TestSplitAndReassemble(t *testing.T) {
	for _, pair := range pairs {
		src, dst := pair[0].Addr(), pair[1].Addr()
		for _, size := range []int{10, fragmentMTU, 9000, 60000} {
			want := make([]byte, size)
			for i := range want {
				want[i] = byte(i * 7 >> 3)
			}
			parts := split(src, dst, icmpProto(src), want, fragmentMTU, 42)
			slices.Reverse(parts) // order must not matter
			var r reassembler
			for i, b := range parts {
				if len(b) > fragmentMTU {
					t.Fatalf("fragment of %d bytes", len(b))
				}
				p, ok := parsePacket(b)
				if !ok {
					t.Fatal("fragment does not parse")
				}
				whole, done := r.add(p, time.Unix(0, 0))
				if last := i == len(parts)-1; done != last {
					t.Fatalf("fragment %d of %d: done = %v", i, len(parts), done)
				}
				if done && (!bytes.Equal(whole.payload, want) || whole.proto != icmpProto(src)) {
					t.Errorf("%d bytes do not come back", size)
				}
			}
			if len(r.partials) != 0 {
				t.Error("a partial packet stays")
			}
		}
	}
}

func TestReassemblerBounds(t *testing.T) {
	var r reassembler
	now := time.Unix(0, 0)
	piece := func(id uint32, offset int, more bool) packet {
		return packet{src: pairs[0][0].Addr(), dst: pairs[0][1].Addr(), proto: protoICMP, payload: make([]byte, 8), frag: fragment{id, offset, more}}
	}
	for id := range uint32(1000) {
		r.add(piece(id, 0, true), now)
	}
	if len(r.partials) != maxReassembly {
		t.Errorf("%d partial packets, want %d", len(r.partials), maxReassembly)
	}
	now = now.Add(2 * reassemblyLimit)
	r.add(piece(5000, 0, true), now)
	if len(r.partials) != 1 {
		t.Errorf("%d partial packets after the time limit, want 1", len(r.partials))
	}
	if _, ok := r.add(piece(5000, 0, true), now); ok {
		t.Error("half a packet is whole")
	}
	if _, ok := r.add(piece(5000, 8, false), now); ok {
		t.Error("overlapping fragments make a packet")
	}
}

func FuzzParsePacket(f *testing.F) {
	for _, pair := range pairs {
		f.Add(buildUDP(pair[0], pair[1], []byte("x")))
		src, dst := pair[0].Addr(), pair[1].Addr()
		f.Add(split(src, dst, icmpProto(src), make([]byte, 3000), 1500, 1)[1])
		f.Add(buildReset(packet{src: src, dst: dst}, tcpHeader{}))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		p, ok := parsePacket(b)
		if !ok {
			return
		}
		if len(p.raw) > len(b) || len(p.payload) > len(p.raw) || p.src.Is4() != p.dst.Is4() {
			t.Errorf("parses as %+v", p)
		}
		parseTCP(p.payload)
		var r reassembler
		if whole, ok := r.add(p, time.Unix(0, 0)); ok && len(whole.raw) > maxPacket+header6 {
			t.Errorf("reassembled to %d bytes", len(whole.raw))
		}
	})
}
