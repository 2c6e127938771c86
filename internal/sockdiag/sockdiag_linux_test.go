package sockdiag

import (
	"net"
	"net/netip"
	"slices"
	"testing"

	"golang.org/x/sys/unix"
)

func each(t *testing.T, q Query) (found []Socket) {
	t.Helper()
	if err := Each(q, func(s Socket) { found = append(found, s) }); err != nil {
		t.Fatal(err)
	}
	return found
}

func has(found []Socket, addr string, both bool) bool {
	return slices.ContainsFunc(found, func(s Socket) bool {
		return s.Addr == netip.MustParseAddrPort(addr) && s.Both == both && s.Inode != 0 && s.Interface == 0
	})
}

func TestEach(t *testing.T) {
	wide, err := net.Listen("tcp", "[::]:0")
	if err != nil {
		t.Fatal(err)
	}
	defer wide.Close()
	udp, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer udp.Close()
	port := netip.MustParseAddrPort(wide.Addr().String()).Port()
	client, err := net.Dial("tcp4", netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), port).String())
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	from := netip.MustParseAddrPort(client.LocalAddr().String())

	listening := each(t, Query{Proto: unix.IPPROTO_TCP, States: Listen})
	if !has(listening, wide.Addr().String(), true) || has(listening, client.LocalAddr().String(), false) {
		t.Errorf("listening on %s: %v", wide.Addr(), listening)
	}
	if bound := each(t, Query{Proto: unix.IPPROTO_UDP, States: Close}); !has(bound, udp.LocalAddr().String(), false) {
		t.Errorf("bound to %s: %v", udp.LocalAddr(), bound)
	}
	for _, c := range []struct {
		first, last uint16
		want        bool
	}{
		{from.Port(), from.Port(), true},
		{from.Port() - 1, from.Port(), true},
		{from.Port(), 65535, true},
		{1, from.Port() - 1, false},
		{from.Port() + 1, 65535, false},
		{from.Port() + 1, from.Port() - 1, false},
	} {
		held := each(t, Query{Proto: unix.IPPROTO_TCP, States: Held, First: c.first, Last: c.last})
		if has(held, from.String(), false) != c.want {
			t.Errorf("ports %d to %d: %v, with %s: want %v", c.first, c.last, held, from, c.want)
		}
		if slices.ContainsFunc(held, func(s Socket) bool { return s.Addr.Port() < c.first || s.Addr.Port() > c.last }) {
			t.Errorf("ports %d to %d: %v", c.first, c.last, held)
		}
	}
}

// A busy host's connections are what a look must not pay for.
func BenchmarkEach(b *testing.B) {
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	defer l.Close()
	for range 500 {
		conn, err := net.Dial("tcp4", l.Addr().String())
		if err != nil {
			b.Fatal(err)
		}
		defer conn.Close()
		other, err := l.Accept()
		if err != nil {
			b.Fatal(err)
		}
		defer other.Close()
	}
	for b.Loop() {
		if err := Each(Query{Proto: unix.IPPROTO_TCP, States: Held, First: 1024, Last: 1100}, func(Socket) {}); err != nil {
			b.Fatal(err)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add(make([]byte, answerLen))
	f.Add(append(make([]byte, answerLen), 5, 0, attrV6Only, 0, 1))
	f.Add([]byte{unix.AF_INET6})
	f.Fuzz(func(t *testing.T, message []byte) {
		if s, ok := parse(message); ok && (!s.Addr.IsValid() || s.Addr.Port() == 0 || s.Addr.Addr().Is4In6()) {
			t.Errorf("% x is %+v", message, s)
		}
	})
}
