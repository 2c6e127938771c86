//go:build linux

package publish

import (
	"net"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
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
