package relay

import (
	"io"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/portolan-net/portolan/internal/datapath"
)

// Flows of an address that has gone end, be they idle or full; others stay.
func TestResetFrom(t *testing.T) {
	for name, kind := range map[string]func(*net.TCPConn) datapath.Conn{"kernel": plain, "copied": hidden} {
		t.Run(name, func(t *testing.T) {
			noLeaks(t)
			addr := netip.AddrFrom4([4]byte{127, 0, 0, 5})
			idle, full := relayedBy(t, addr, kind), relayedBy(t, addr, kind)
			stays := relayed(t, kind)
			for _, f := range []*relayedFlow{idle, full, stays} {
				pass(t, f)
			}
			block(t, full.left)
			if n := ResetFrom(addr); n != 2 {
				t.Errorf("%d flows have the address, want 2", n)
			}
			idle.await(t)
			full.await(t)
			wantReset(t, idle.left)
			wantReset(t, full.left)
			pass(t, stays)
			if n := ResetFrom(addr); n != 0 {
				t.Errorf("%d flows of the address are still there", n)
			}
		})
	}
}

// relayedBy is relayed for a far side that is dialled from addr.
func relayedBy(t *testing.T, addr netip.Addr, kind func(*net.TCPConn) datapath.Conn) *relayedFlow {
	t.Helper()
	left, a := pair(t)
	l, err := net.ListenTCP("tcp4", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	b, err := net.DialTCP("tcp4", net.TCPAddrFromAddrPort(netip.AddrPortFrom(addr, 0)), l.Addr().(*net.TCPAddr))
	if err != nil {
		t.Fatal(err)
	}
	right, err := l.AcceptTCP()
	if err != nil {
		t.Fatal(err)
	}
	return relayedBetween(t, left, a, b, right, kind)
}

// pass sends a byte through a flow.
func pass(t *testing.T, f *relayedFlow) {
	t.Helper()
	if _, err := f.left.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	_ = f.right.SetReadDeadline(time.Now().Add(5 * time.Second))
	if _, err := io.ReadFull(f.right, make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
}
