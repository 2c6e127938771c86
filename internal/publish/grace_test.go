//go:build linux

package publish

import (
	"errors"
	"fmt"
	"net/netip"
	"syscall"
	"testing"
	"time"
)

const shortGrace = 300 * time.Millisecond

func short(c *Config) { c.Grace = shortGrace }

// gone waits for a port to close, and fails when that takes five times as long
// as it should.
func gone(t *testing.T, table *Table, address string) {
	t.Helper()
	for end := time.Now().Add(5 * shortGrace); len(table.List()) > 0; time.Sleep(shortGrace / 20) {
		if time.Now().After(end) {
			t.Fatalf("%s is published still after %v", address, 5*shortGrace)
		}
	}
	refused(t, address)
}

func TestReleasedPortStaysForAWhile(t *testing.T) {
	table, _ := newTable(t, short)
	b := tcp(freePort(t, "tcp", "127.0.0.1"), container(t, "127.0.0.1:0", "hi"))
	must(t, table.Publish(t.Context(), b))
	must(t, table.Release(t.Context(), b))
	greeting(t, b.Host.String(), "hi") // its container may live
	gone(t, table, b.Host.String())
}

func TestSameBindingTakesOver(t *testing.T) {
	for _, end := range []string{"release", "agent gone", "agent here"} {
		for _, again := range []string{"publish", "renew"} {
			t.Run(end+", "+again, func(t *testing.T) {
				table, _ := newTable(t, short)
				b := tcp(freePort(t, "tcp", "127.0.0.1"), container(t, "127.0.0.1:0", "hi"))
				must(t, table.Publish(t.Context(), b))
				c := greeting(t, b.Host.String(), "hi")
				switch end {
				case "release":
					must(t, table.Release(t.Context(), b))
				case "agent gone":
					table.AgentGone()
				default:
					table.AgentGone()
					table.AgentHere()
				}
				if again == "publish" {
					must(t, table.Publish(t.Context(), b))
				} else {
					must(t, table.Renew(t.Context(), b))
				}
				time.Sleep(2 * shortGrace)
				greeting(t, b.Host.String(), "hi")
				ask(t, c, "on", "on")
			})
		}
	}
}

// A container that comes back with another address takes the port over.
func TestNewContainerTakesOver(t *testing.T) {
	table, _ := newTable(t, nil)
	b := tcp(freePort(t, "tcp", "127.0.0.1"), container(t, "127.0.0.1:0", "old"))
	must(t, table.Publish(t.Context(), b))
	table.AgentGone()
	old := b
	b.Container = container(t, "127.0.0.1:0", "new")
	must(t, table.Publish(t.Context(), b))
	greeting(t, b.Host.String(), "new")
	must(t, table.Unpublish(t.Context(), old)) // comes late, means the old one
	greeting(t, b.Host.String(), "new")
}

func TestNewContainerTakesOverUDP(t *testing.T) {
	table, _ := newTable(t, nil)
	b := udp(freePort(t, "udp", "127.0.0.1"), containerUDP(t, "127.0.0.1:0", "old "))
	must(t, table.Publish(t.Context(), b))
	c := dial(t, "udp", b.Host.String())
	ask(t, c, "x", "old x")
	must(t, table.Release(t.Context(), b))
	b.Container = containerUDP(t, "127.0.0.1:0", "new ")
	must(t, table.Publish(t.Context(), b))
	ask(t, c, "x", "new x")
}

// A port that only waits for its engine is no reason to refuse another one.
func TestKeptPortYields(t *testing.T) {
	table, _ := newTable(t, nil)
	b := tcp(freePort(t, "tcp", "127.0.0.1"), container(t, "127.0.0.1:0", "old"))
	must(t, table.Publish(t.Context(), b))
	must(t, table.Release(t.Context(), b))
	all := tcp(netip.AddrPortFrom(netip.IPv4Unspecified(), b.Host.Port()), container(t, "127.0.0.1:0", "new"))
	must(t, table.Publish(t.Context(), all))
	greeting(t, fmt.Sprintf("127.0.0.1:%d", b.Host.Port()), "new")
	if l := table.List(); len(l) != 1 || l[0].Binding != all {
		t.Errorf("List = %v", l)
	}
}

func TestBindingNotRenewedEnds(t *testing.T) {
	table, _ := newTable(t, short)
	b := tcp(freePort(t, "tcp", "127.0.0.1"), container(t, "127.0.0.1:0", "hi"))
	must(t, table.Publish(t.Context(), b))
	table.AgentHere()
	gone(t, table, b.Host.String())
}

// A binding whose port was lost while the daemon was away is listed with the
// reason until it stands.
func TestRenewFailsVisibly(t *testing.T) {
	table, _ := newTable(t, nil)
	holder := listen(t, "tcp", "127.0.0.1:0")
	b := tcp(netip.MustParseAddrPort(holder.Addr().String()), container(t, "127.0.0.1:0", "hi"))
	for range 2 {
		if err := table.Renew(t.Context(), b); !errors.Is(err, syscall.EADDRINUSE) {
			t.Fatalf("Renew = %v", err)
		}
		if l := table.List(); len(l) != 1 || l[0].Error == "" {
			t.Fatalf("List = %+v, want the binding with its error", l)
		}
	}
	must(t, holder.Close())
	must(t, table.Renew(t.Context(), b))
	greeting(t, b.Host.String(), "hi")
	if l := table.List(); len(l) != 1 || l[0].Error != "" {
		t.Errorf("List = %+v, want the binding without error", l)
	}
}
