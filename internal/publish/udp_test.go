//go:build linux

package publish

import (
	"testing"

	"github.com/portolan-net/portolan/internal/scarce"
)

func TestPublishUDP(t *testing.T) {
	for _, c := range []struct{ name, host, container, source string }{
		{"v4", "127.0.0.1", "127.0.0.1:0", "192.168.65.254:0"},
		{"v6", "::1", "[::1]:0", "[fdc4:f303:9324::254]:0"},
		{"v6 to a container with v4 only", "::1", "127.0.0.1:0", "192.168.65.254:0"},
	} {
		t.Run(c.name, func(t *testing.T) {
			table, m := newTable(t, nil)
			b := udp(freePort(t, "udp", c.host), containerUDP(t, c.container, "got "))
			must(t, table.Publish(t.Context(), b))
			conn := dial(t, "udp", b.Host.String())
			ask(t, conn, "x", "got x")
			if got := m.last().String(); got != c.source {
				t.Errorf("the container sees %s, want %s", got, c.source)
			}
			must(t, table.Unpublish(t.Context(), b))
			must(t, table.Publish(t.Context(), b))
			ask(t, conn, "y", "got y")
		})
	}
}

// The places of clients are those at all ports together, and are given back.
func TestPlacesOfAllPorts(t *testing.T) {
	connections, sessions := scarce.NewLimit(scarce.Bounds{}, nil), scarce.NewLimit(scarce.Bounds{}, nil)
	table, _ := newTable(t, func(c *Config) { c.Connections, c.Sessions = connections, sessions })
	for range 2 {
		u := udp(freePort(t, "udp", "127.0.0.1"), containerUDP(t, "127.0.0.1:0", "got "))
		c := tcp(freePort(t, "tcp", "127.0.0.1"), container(t, "127.0.0.1:0", "hello "))
		must(t, table.Publish(t.Context(), u))
		must(t, table.Publish(t.Context(), c))
		ask(t, dial(t, "udp", u.Host.String()), "x", "got x")
		ask(t, greeting(t, c.Host.String(), "hello "), "echo", "echo")
	}
	if connections.Held() != 2 || sessions.Held() != 2 {
		t.Errorf("%d connections and %d sessions are counted, want 2 of each", connections.Held(), sessions.Held())
	}
	table.Close()
	if connections.Held() != 0 || sessions.Held() != 0 {
		t.Errorf("%d connections and %d sessions are counted after the end", connections.Held(), sessions.Held())
	}
}
