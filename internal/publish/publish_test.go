//go:build linux

package publish

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/portolan-net/portolan/internal/portolan"
)

func TestPublishTCP(t *testing.T) {
	for _, c := range []struct{ name, host, container, dialed, source string }{
		{"v4", "127.0.0.1", "127.0.0.1:0", "127.0.0.1", "192.168.65.254"},
		{"v4 wildcard", "0.0.0.0", "127.0.0.1:0", "127.5.5.5", "192.168.65.254"},
		{"v6", "::1", "[::1]:0", "::1", "fdc4:f303:9324::254"},
		{"v6 wildcard", "::", "[::1]:0", "::1", "fdc4:f303:9324::254"},
		{"v6 to a container with v4 only", "::", "127.0.0.1:0", "::1", "192.168.65.254"},
	} {
		t.Run(c.name, func(t *testing.T) {
			table, m := newTable(t, nil)
			host := freePort(t, "tcp", c.host)
			b := tcp(host, container(t, c.container, "hello "))
			must(t, table.Publish(t.Context(), b))
			must(t, table.Publish(t.Context(), b)) // told twice, done once
			address := netip.AddrPortFrom(netip.MustParseAddr(c.dialed), host.Port()).String()
			ask(t, greeting(t, address, "hello "), "echo", "echo")
			if got := m.last().Addr().String(); got != c.source {
				t.Errorf("the container sees %s, want %s", got, c.source)
			}
			must(t, table.Unpublish(t.Context(), b))
			refused(t, address)
			if l := table.List(); len(l) != 0 {
				t.Errorf("List = %v after Unpublish", l)
			}
		})
	}
}

// A wildcard of IPv6 leaves IPv4 to others, and the reverse.
func TestPublishFamiliesApart(t *testing.T) {
	table, _ := newTable(t, nil)
	p := freePort(t, "tcp", "0.0.0.0").Port()
	v4 := netip.AddrPortFrom(netip.IPv4Unspecified(), p)
	v6 := netip.AddrPortFrom(netip.IPv6Unspecified(), p)
	must(t, table.Publish(t.Context(), tcp(v6, container(t, "[::1]:0", "six"))))
	refused(t, fmt.Sprintf("127.0.0.1:%d", p))
	must(t, table.Publish(t.Context(), tcp(v4, container(t, "127.0.0.1:0", "four"))))
	greeting(t, fmt.Sprintf("127.0.0.1:%d", p), "four")
	greeting(t, fmt.Sprintf("[::1]:%d", p), "six")
}

func TestPublishShowsTheClient(t *testing.T) {
	// The loopback addresses stand for a neighbour when the host is said to have none.
	at := netip.MustParseAddrPort("203.0.113.9:4711")
	table, _ := newTable(t, nil)
	container := netip.MustParseAddr("172.17.0.2")
	if got := table.source(at.Addr(), container); got != at.Addr() {
		t.Errorf("source = %s, want the client's own", got)
	}
	table.cfg.Networks = func() []netip.Prefix { return []netip.Prefix{netip.MustParsePrefix("203.0.113.0/24")} }
	if got := table.source(at.Addr(), container); got != portolan.DefaultLink().Host().V4 {
		t.Errorf("source inside an engine's subnet = %s, want the host's", got)
	}
	all, err := net.InterfaceAddrs()
	must(t, err)
	for _, a := range all {
		own := netip.MustParsePrefix(a.String()).Addr()
		if got := table.source(own, container); got != portolan.DefaultLink().Host().V4 {
			t.Errorf("source of the host's %s = %s, want the link's host address", own, got)
		}
	}
}

func TestPublishTakenPort(t *testing.T) {
	for _, c := range []struct{ network, holder, host string }{
		{"tcp", "127.0.0.1:0", "127.0.0.1"}, {"tcp", "127.0.0.1:0", "0.0.0.0"}, {"tcp4", "0.0.0.0:0", "127.0.0.1"},
		{"tcp", "[::1]:0", "::1"}, {"tcp", "[::]:0", "0.0.0.0"}, // a dual-stack socket holds both
	} {
		t.Run(c.holder+" against "+c.host, func(t *testing.T) {
			table, _ := newTable(t, nil)
			held := netip.MustParseAddrPort(listen(t, c.network, c.holder).Addr().String())
			host := netip.AddrPortFrom(netip.MustParseAddr(c.host), held.Port())
			err := table.Publish(t.Context(), tcp(host, netip.MustParseAddrPort("127.0.0.1:9")))
			wantTaken(t, err, host, "tcp", fmt.Sprintf("(pid %d)", os.Getpid()))
			if l := table.List(); len(l) != 0 {
				t.Errorf("List = %v", l)
			}
		})
	}
	t.Run("udp", func(t *testing.T) {
		table, _ := newTable(t, nil)
		held := containerUDP(t, "127.0.0.1:0", "")
		err := table.Publish(t.Context(), udp(held, netip.MustParseAddrPort("127.0.0.1:9")))
		wantTaken(t, err, held, "udp", fmt.Sprintf("(pid %d)", os.Getpid()))
	})
	t.Run("by a binding", func(t *testing.T) {
		table, _ := newTable(t, nil)
		host := freePort(t, "tcp", "127.0.0.1")
		must(t, table.Publish(t.Context(), tcp(host, netip.MustParseAddrPort("172.17.0.2:80"))))
		other := tcp(host, netip.MustParseAddrPort("172.17.0.3:80"))
		wantTaken(t, table.Publish(t.Context(), other), host, "tcp", "172.17.0.2")
		other.Host = netip.AddrPortFrom(netip.IPv4Unspecified(), host.Port())
		wantTaken(t, table.Publish(t.Context(), other), other.Host, "tcp", "172.17.0.2")
	})
}

func wantTaken(t *testing.T, err error, host netip.AddrPort, proto, holder string) {
	t.Helper()
	if !errors.Is(err, syscall.EADDRINUSE) {
		t.Fatalf("error = %v, want EADDRINUSE", err)
	}
	want := fmt.Sprintf("listen on %s/%s: address already in use", host, proto)
	if !strings.HasPrefix(err.Error(), want) || !strings.Contains(err.Error(), holder) {
		t.Errorf("error = %q, want %q and the holder %q", err, want, holder)
	}
}

func TestPublishRefusesNonsense(t *testing.T) {
	table, _ := newTable(t, nil)
	good := tcp(freePort(t, "tcp", "127.0.0.1"), netip.MustParseAddrPort("172.17.0.2:80"))
	for _, spoil := range []func(*portolan.Binding){
		func(b *portolan.Binding) { b.Proto = portolan.ICMP },
		func(b *portolan.Binding) { b.Host = netip.AddrPort{} },
		func(b *portolan.Binding) { b.Host = netip.AddrPortFrom(b.Host.Addr(), 0) },
		func(b *portolan.Binding) { b.Host = netip.MustParseAddrPort("[::ffff:127.0.0.1]:80") },
		func(b *portolan.Binding) { b.Container = netip.AddrPort{} },
		func(b *portolan.Binding) { b.Container = netip.MustParseAddrPort("172.17.0.2:0") },
	} {
		bad := good
		spoil(&bad)
		if table.Publish(t.Context(), bad) == nil || table.Renew(t.Context(), bad) == nil {
			t.Errorf("Publish(%v) accepts it", bad)
		}
	}
	foreign := good
	foreign.Host = netip.MustParseAddrPort("203.0.113.1:8080")
	if err := table.Publish(t.Context(), foreign); !errors.Is(err, syscall.EADDRNOTAVAIL) || !strings.Contains(err.Error(), "no address of the host") {
		t.Errorf("Publish on a foreign address = %v", err)
	}
	if l := table.List(); len(l) != 0 {
		t.Errorf("List = %v", l)
	}
}

func TestPublishWithoutIPv6(t *testing.T) {
	table, _ := newTable(t, nil)
	none := func(netip.AddrPort) error { return os.NewSyscallError("socket", syscall.EAFNOSUPPORT) }
	table.open.tcp = func(_ context.Context, a netip.AddrPort, _ bool) (*net.TCPListener, error) { return nil, none(a) }
	b := tcp(netip.MustParseAddrPort("[::]:8080"), netip.MustParseAddrPort("172.17.0.2:80"))
	must(t, table.Publish(t.Context(), b))
	if l := table.List(); len(l) != 1 || !strings.Contains(l[0].Error, "the host has no IPv6") {
		t.Errorf("List = %+v, want the binding with a note", l)
	}
	must(t, table.Unpublish(t.Context(), b))
	b.Host = netip.MustParseAddrPort("[::1]:8080")
	if table.Publish(t.Context(), b) == nil {
		t.Error("an IPv6 address that was asked for is ignored")
	}
}

func TestUnpublishKeepsConnections(t *testing.T) {
	table, _ := newTable(t, nil)
	b := tcp(freePort(t, "tcp", "127.0.0.1"), container(t, "127.0.0.1:0", "hi"))
	must(t, table.Publish(t.Context(), b))
	c := greeting(t, b.Host.String(), "hi")
	must(t, table.Unpublish(t.Context(), b))
	refused(t, b.Host.String())
	ask(t, c, "still here", "still here")
	must(t, table.Publish(t.Context(), b)) // beside the old connection, at once
	greeting(t, b.Host.String(), "hi")
	table.Close()
	if _, err := c.Read(make([]byte, 1)); err == nil {
		t.Error("the connection outlives the table")
	}
	if err := table.Publish(t.Context(), b); err == nil {
		t.Error("a closed table publishes")
	}
}

func TestRefusedContainerResetsClient(t *testing.T) {
	table, _ := newTable(t, nil)
	b := tcp(freePort(t, "tcp", "127.0.0.1"), freePort(t, "tcp", "127.0.0.1"))
	must(t, table.Publish(t.Context(), b))
	c, err := tryDial(t, "tcp", b.Host.String())
	if err == nil {
		_, err = c.Read(make([]byte, 1))
	}
	if !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("client sees %v, want a reset", err)
	}
}

func TestListIsOrdered(t *testing.T) {
	table, _ := newTable(t, nil)
	to := netip.MustParseAddrPort("172.17.0.2:80")
	first, second := freePort(t, "tcp", "127.0.0.1"), freePort(t, "tcp", "127.0.0.1")
	if first.Port() > second.Port() {
		first, second = second, first
	}
	u := freePort(t, "udp", "127.0.0.1")
	for _, b := range []portolan.Binding{udp(u, to), tcp(second, to), tcp(first, to)} {
		must(t, table.Publish(t.Context(), b))
	}
	got := table.List()
	if len(got) != 3 || got[0].Host != first || got[1].Host != second || got[2].Proto != portolan.UDP {
		t.Errorf("List = %+v", got)
	}
	if time.Since(got[0].Since) > limit || got[0].Error != "" {
		t.Errorf("port = %+v, want one that stands since now", got[0])
	}
}
