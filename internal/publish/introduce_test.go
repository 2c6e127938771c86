//go:build linux

package publish

import (
	"context"
	"errors"
	"net/netip"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pires/go-proxyproto"
)

func TestListed(t *testing.T) {
	for list, want := range map[string]bool{"": false, "80": true, "443,80": true, "443, 80": true, "8080": false, "80/tcp": false, "eighty": false} {
		if got := listed(list, 80); got != want {
			t.Errorf("listed(%q) = %t", list, got)
		}
	}
}

// The labels are asked once for each container, and again after a failure.
func TestProxyHeader(t *testing.T) {
	var asked atomic.Int32
	var labels atomic.Pointer[map[string]string] // nil while the engine is away
	table, _ := newTable(t, func(c *Config) {
		c.Labels = func(context.Context, netip.Addr) (map[string]string, error) {
			asked.Add(1)
			if known := labels.Load(); known != nil {
				return *known, nil
			}
			return nil, errors.New("the engine is away")
		}
	})
	at := container(t, "127.0.0.1:0", "")
	b := tcp(freePort(t, "tcp", "127.0.0.1"), at)
	must(t, table.Publish(t.Context(), b))
	ask(t, dial(t, "tcp", b.Host.String()), "x", "x") // without labels, without a header
	labels.Store(&map[string]string{proxyLabel: strconv.Itoa(int(at.Port()))})
	for range 2 {
		c := dial(t, "tcp", b.Host.String())
		want, err := proxyproto.HeaderProxyFromAddrs(2, c.LocalAddr(), c.RemoteAddr()).Format()
		must(t, err)
		ask(t, c, "x", string(want)+"x") // the container echoes
	}
	if n := asked.Load(); n != 2 {
		t.Errorf("the labels were asked for %d times, want 2", n)
	}
	got := table.List()[0]
	if got.Connections != 3 || got.Open != 3 || got.Received != 3 || got.Sent < 3 {
		t.Errorf("traffic = %+v", got.Traffic)
	}
}

// What `portolan ports add` published has no engine that could go.
func TestAdd(t *testing.T) {
	table, _ := newTable(t, short)
	engines := tcp(freePort(t, "tcp", "127.0.0.1"), container(t, "127.0.0.1:0", "hi"))
	must(t, table.Publish(t.Context(), engines))
	wantTaken(t, table.Add(t.Context(), engines, false), engines.Host, "tcp", "127.0.0.1")
	added := tcp(freePort(t, "tcp", "127.0.0.1"), engines.Container)
	must(t, table.Add(t.Context(), added, false))
	must(t, table.Add(t.Context(), added, false)) // told twice, done once
	table.AgentGone()
	for end := time.Now().Add(limit); len(table.List()) > 1; time.Sleep(shortGrace / 20) {
		if time.Now().After(end) {
			t.Fatal("the engine's port stays")
		}
	}
	if l := table.List(); l[0].Binding != added || !l[0].Added {
		t.Errorf("List = %+v", l)
	}
	greeting(t, added.Host.String(), "hi")
	must(t, table.Unpublish(t.Context(), added))
	refused(t, added.Host.String())
}

func TestVanished(t *testing.T) {
	here := []netip.Addr{netip.MustParseAddr("192.0.2.1")}
	for addr, want := range map[string]bool{"0.0.0.0": false, "::": false, "127.0.0.1": false, "192.0.2.1": false, "192.0.2.2": true, "2001:db8::1": true} {
		if got := vanished(netip.MustParseAddr(addr), here); got != want {
			t.Errorf("vanished(%s) = %t", addr, got)
		}
	}
}
