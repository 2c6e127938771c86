//go:build linux

package publish

import (
	"testing"
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
