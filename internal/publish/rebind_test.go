//go:build linux

package publish

import (
	"errors"
	"net"
	"net/netip"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/portolan-net/portolan/internal/portolan"
)

// Listeners follow ListenOn; connections stay, and are counted still.
func TestRebind(t *testing.T) {
	here, there := netip.MustParseAddr("127.0.0.1"), netip.MustParseAddr("127.0.0.3")
	var on atomic.Pointer[netip.Addr]
	on.Store(&here)
	table, _ := newTable(t, func(cfg *Config) { cfg.ListenOn = func(netip.Addr) netip.Addr { return *on.Load() } })
	server := container(t, "127.0.0.1:0", "web")
	host := freePort(t, "tcp", "127.0.0.1")
	b := tcp(host, server)
	must(t, table.Publish(t.Context(), b))
	at := func(a netip.Addr) string { return netip.AddrPortFrom(a, host.Port()).String() }
	conn := greeting(t, at(here), "web")

	table.Rebind(t.Context()) // nothing has changed
	ask(t, conn, "x", "x")
	on.Store(&there)
	table.Rebind(t.Context())
	refused(t, at(here))
	greeting(t, at(there), "web")
	ask(t, conn, "x", "x")
	if list := table.List(); len(list) != 1 || list[0].Binding != b || list[0].Error != "" || list[0].Connections != 2 || list[0].Open != 2 {
		t.Errorf("List = %+v", list)
	}

	// Its old place is taken by now: the port is listed with the reason, and is
	// there with the next change.
	l, err := net.Listen("tcp", at(here))
	must(t, err)
	on.Store(&here)
	table.Rebind(t.Context())
	if list := table.List(); len(list) != 1 || !strings.Contains(list[0].Error, "address already in use: held by ") {
		t.Errorf("List = %+v", list)
	}
	refused(t, at(there))
	must(t, l.Close())
	must(t, table.Publish(t.Context(), b))
	greeting(t, at(here), "web")
}

// What stood before waits for an address that the host does not have now; what is
// new does not.
func TestRenewWaitsForAddress(t *testing.T) {
	table, _ := newTable(t, nil)
	server := netip.MustParseAddrPort("172.17.0.2:80")
	for i, addr := range []string{"198.51.100.77", "2001:db8::77"} {
		for j, proto := range []portolan.Proto{portolan.TCP, portolan.UDP} {
			b := portolan.Binding{Proto: proto, Host: netip.AddrPortFrom(netip.MustParseAddr(addr), 8080), Container: server}
			if err := table.Publish(t.Context(), b); !errors.Is(err, syscall.EADDRNOTAVAIL) {
				t.Errorf("Publish %s = %v, want EADDRNOTAVAIL", b, err)
			}
			must(t, table.Renew(t.Context(), b))
			b.Host = netip.AddrPortFrom(b.Host.Addr(), 8081)
			if err := table.Add(t.Context(), b, false); !errors.Is(err, syscall.EADDRNOTAVAIL) {
				t.Errorf("Add %s = %v, want EADDRNOTAVAIL", b, err)
			}
			must(t, table.Add(t.Context(), b, true))
			if list := table.List(); len(list) != 4*i+2*j+2 {
				t.Errorf("after %s: %d bindings", b, len(list))
			}
		}
	}
	for _, port := range table.List() {
		if !strings.Contains(port.Error, "comes back with it") {
			t.Errorf("%s: %q, want that it waits", port.Binding, port.Error)
		}
	}
}
