package router

import (
	"encoding/binary"
	"net/netip"

	"github.com/portolan-net/portolan/internal/datapath"
)

// An ICMP error quotes as much of the packet as fits: 576 bytes in all for IPv4
// (RFC 1812, 4.3.2.3), the minimum MTU for IPv6 (RFC 4443, 2.4c).
const (
	maxError4 = 576
	maxError6 = 1280
)

// icmpCode is the type and code of an ICMP error, and its last header word.
type icmpCode struct {
	typ, code byte
	word      uint32
}

// unreachable says how a refusal reads in ICMP. Silent has no code.
func unreachable(r datapath.Refusal, v6 bool) (icmpCode, bool) {
	codes := map[datapath.Refusal][2]icmpCode{
		datapath.Refused:         {{typ: 3, code: 3}, {typ: 1, code: 4}},
		datapath.HostUnreachable: {{typ: 3, code: 1}, {typ: 1, code: 3}},
		datapath.NetUnreachable:  {{typ: 3, code: 0}, {typ: 1, code: 0}},
		datapath.Prohibited:      {{typ: 3, code: 13}, {typ: 1, code: 1}},
	}
	pair, ok := codes[r]
	if v6 {
		return pair[1], ok
	}
	return pair[0], ok
}

// unknownProtocol says that nothing carries a protocol: ICMP protocol
// unreachable, or ICMPv6 parameter problem that points at the next header field.
func unknownProtocol(v6 bool) icmpCode {
	if v6 {
		return icmpCode{typ: 4, code: 1, word: 6}
	}
	return icmpCode{typ: 3, code: 2}
}

// buildError makes the ICMP error about the packet orig.
func buildError(from, to netip.Addr, code icmpCode, orig []byte) []byte {
	room := maxError4 - header4 - 8
	if from.Is6() {
		room = maxError6 - header6 - 8
	}
	orig = orig[:min(len(orig), room)]
	b := make([]byte, 8+len(orig))
	b[0], b[1] = code.typ, code.code
	binary.BigEndian.PutUint32(b[4:], code.word)
	copy(b[8:], orig)
	proto := icmpProto(from)
	putChecksum(b, 2, from, to, proto)
	return buildIP(from, to, proto, b)
}

// answerable reports whether src may be sent an error about a packet to dst
// (RFC 1122, 3.2.2; RFC 4443, 2.4e).
func answerable(src, dst netip.Addr) bool {
	return unicast(src) && unicast(dst)
}

// unicast reports whether addr can be one host's.
func unicast(addr netip.Addr) bool {
	broadcast := netip.AddrFrom4([4]byte{255, 255, 255, 255})
	return addr.IsValid() && !addr.IsMulticast() && !addr.IsUnspecified() && !addr.IsLoopback() && addr != broadcast
}
