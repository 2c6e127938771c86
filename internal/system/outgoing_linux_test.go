package system

import (
	"context"
	"net"
	"net/netip"
	"testing"
)

// The kernel takes what it is told, for both protocols and families.
func TestOutgoingKeepsOut(t *testing.T) {
	kernel := kernelPorts()
	if kernel.Size() < 1000 {
		t.Fatalf("the kernel's range is %v", kernel)
	}
	// All but the two ends is avoided: a port by chance would be seen.
	avoid := PortRange{kernel.First + 100, kernel.Last - 100}
	o := NewOutgoing(func() PortRange { return avoid })
	for _, network := range []string{"udp4", "udp6"} {
		lc := net.ListenConfig{Control: o.Control}
		conn, err := lc.ListenPacket(t.Context(), network, "")
		if err != nil {
			t.Fatal(err)
		}
		inEnds(t, avoid, conn.LocalAddr())
		conn.Close()
	}
	for _, addr := range []string{"127.0.0.1:0", "[::1]:0"} {
		l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		d := net.Dialer{Control: o.Control}
		conn, err := d.DialContext(context.WithoutCancel(t.Context()), "tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		inEnds(t, avoid, conn.LocalAddr())
		conn.Close()
		l.Close()
	}
}

func inEnds(t *testing.T, avoid PortRange, addr net.Addr) {
	t.Helper()
	local, err := netip.ParseAddrPort(addr.String())
	if err != nil || avoid.Contains(local.Port()) {
		t.Errorf("%s %s has a port of %v (%v)", addr.Network(), addr, avoid, err)
	}
}
