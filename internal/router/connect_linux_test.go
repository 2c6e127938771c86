package router

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/portolan-net/portolan/internal/portolan"
)

// connectedHost is a host in a namespace of its own, with routes to the container.
type connectedHost struct {
	*process

	outside *Outside
}

func (l *lab) connectHost(t *testing.T) *connectedHost {
	t.Helper()
	h := &connectedHost{process: start(t, "hold", unix.CLONE_NEWNET)}
	var err error
	if h.outside, err = Connect(l.dialHelper(t)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { h.outside.Close() })
	link := portolan.DefaultLink()
	h.do(t, func() error {
		dev, err := h.outside.AddLink("host0")
		if err != nil {
			return err
		}
		own, gateway := link.Outside(), link.Gateway()
		if err := addresses("host0", own.V4.String()+"/32", own.V6.String()+"/128"); err != nil {
			return err
		}
		for _, via := range []net.IP{gateway.V4.AsSlice(), gateway.V6.AsSlice()} {
			index := dev.Attrs().Index
			err := errors.Join(
				netlink.NeighSet(&netlink.Neigh{LinkIndex: index, State: netlink.NUD_PERMANENT, IP: via, HardwareAddr: GatewayMAC()}),
				netlink.RouteAdd(&netlink.Route{LinkIndex: index, Gw: via, Flags: int(netlink.FLAG_ONLINK)}))
			if err != nil {
				return err
			}
		}
		return nil
	})
	return h
}

func (l *lab) dialHelper(t *testing.T) *net.UnixConn {
	t.Helper()
	conn, err := net.DialUnix("unix", nil, &net.UnixAddr{Net: "unix", Name: l.socket})
	if err != nil {
		t.Fatal(err)
	}
	return conn
}

// dialFrom dials in the namespace of a process, from src unless that is not valid.
func dialFrom(p *process, network string, src netip.Addr, dst netip.AddrPort) (conn net.Conn, err error) {
	err = p.try(func() error {
		dialer := net.Dialer{Timeout: time.Second}
		dialer.SetMultipathTCP(false)
		if src.IsValid() {
			dialer.LocalAddr = net.TCPAddrFromAddrPort(netip.AddrPortFrom(src, 0))
		}
		conn, err = dialer.Dial(network, dst.String())
		return err
	})
	return conn, err
}

// A connected host reaches the container, and its own ports; the container
// reaches nothing of the host's, and outbound flows go on beside it.
func TestConnectedHost(t *testing.T) {
	l := newLab(t)
	l.attach(t, &fakeHandler{open: openEcho})
	h := l.connectHost(t)
	l.helper.do(t, func() error { // else the kernel would cut up what containers send
		dev, err := netlink.LinkByName(hostName)
		if err != nil {
			return err
		}
		if size := dev.Attrs().GSOIPv4MaxSize; size != 0 && size < portolan.LargeSegment {
			return fmt.Errorf("%s takes segments of %d bytes, want %d", hostName, size, portolan.LargeSegment)
		}
		return nil
	})
	both(t, func(t *testing.T, server, container netip.Addr) {
		own := portolan.DefaultLink().Outside().For(container)
		var there, here net.Listener
		listen := func(into *net.Listener, addr netip.Addr) func() error {
			return func() (err error) {
				*into, err = net.Listen("tcp", netip.AddrPortFrom(addr, 8000).String())
				return err
			}
		}
		l.container.do(t, listen(&there, container))
		defer there.Close()
		h.do(t, listen(&here, own))
		defer here.Close()
		conn, err := dialFrom(h.process, "tcp", netip.Addr{}, netip.AddrPortFrom(container, 8000))
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		accepted, err := there.Accept()
		if err != nil {
			t.Fatal(err)
		}
		defer accepted.Close()
		if got := accepted.RemoteAddr().(*net.TCPAddr).AddrPort().Addr(); got != own {
			t.Errorf("the container sees %s, want %s", got, own)
		}
		if _, err := dialFrom(h.process, "tcp", netip.Addr{}, netip.AddrPortFrom(container, 8001)); !errors.Is(err, unix.ECONNREFUSED) {
			t.Errorf("a closed port of the container: %v, want refused", err)
		}
		for _, addr := range []netip.Addr{own, portolan.DefaultLink().Gateway().For(own)} {
			if conn, err := dialFrom(l.container, "tcp", netip.Addr{}, netip.AddrPortFrom(addr, 8000)); err == nil && addr == own {
				conn.Close()
				t.Errorf("the container opens a connection to the host at %s", addr)
			}
		}
		out, err := l.dial("tcp", netip.AddrPortFrom(server, 80), 5*time.Second)
		if err != nil {
			t.Fatal(err)
		}
		defer out.Close()
		checkEcho(t, out)
	})
}

// What the host forwards for others ends in the router: only its own address on
// the link may pass.
func TestConnectedHostSpeaksForItself(t *testing.T) {
	l := newLab(t)
	l.attach(t, &fakeHandler{open: openEcho})
	h := l.connectHost(t)
	h.do(t, func() error { return addresses("host0", "192.0.2.20/32", "2001:db8:1::20/128") })
	both(t, func(t *testing.T, _, container netip.Addr) {
		foreign := netip.MustParseAddr("192.0.2.20")
		if container.Is6() {
			foreign = netip.MustParseAddr("2001:db8:1::20")
		}
		closed := netip.AddrPortFrom(container, 9)
		if _, err := dialFrom(h.process, "tcp", foreign, closed); !errors.Is(err, unix.ETIMEDOUT) && !isTimeout(err) {
			t.Errorf("from %s: %v, want silence", foreign, err)
		}
		if _, err := dialFrom(h.process, "tcp", netip.Addr{}, closed); !errors.Is(err, unix.ECONNREFUSED) {
			t.Errorf("from the host itself: %v, want refused", err)
		}
		router := netip.AddrPortFrom(portolan.DefaultLink().DNS().For(container), 53)
		if _, err := dialFrom(h.process, "tcp", netip.Addr{}, router); !isTimeout(err) {
			t.Errorf("the router's own address: %v, want silence", err)
		}
	})
}

func isTimeout(err error) bool {
	var timeout interface{ Timeout() bool }
	return errors.As(err, &timeout) && timeout.Timeout()
}

// However a connection ends, both ends of the veth go, and the next may come.
func TestDisconnect(t *testing.T) {
	l := newLab(t)
	gone := func(h *connectedHost, why string) {
		t.Helper()
		eventually(t, why+": host0 is gone", func() bool {
			return h.try(func() error { _, err := netlink.LinkByName("host0"); return err }) != nil
		})
	}
	h := l.connectHost(t)
	if second, err := Connect(l.dialHelper(t)); err == nil || !strings.Contains(err.Error(), "connected already") {
		t.Errorf("a second host: %v, %v", second, err)
	}
	if err := Disconnect(l.dialHelper(t)); err != nil {
		t.Fatal(err)
	}
	if err := h.try(func() error { _, err := netlink.LinkByName("host0"); return err }); err == nil {
		t.Error("host0 is there after Disconnect")
	}
	if err := h.outside.Wait(); !errors.Is(err, ErrEnded) {
		t.Errorf("Wait after Disconnect: %v", err)
	}
	h = l.connectHost(t)
	h.outside.Close() // as the kernel does when its process is killed
	gone(h, "holder closed")
	h = l.connectHost(t)
	l.helper.kill()
	if err := h.outside.Wait(); err == nil || errors.Is(err, ErrEnded) {
		t.Errorf("Wait after the helper's death: %v", err)
	}
	gone(h, "namespace gone")
}
