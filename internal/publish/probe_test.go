//go:build linux

package publish

import (
	"context"
	"net"
	"net/netip"
	"strconv"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/portolan-net/portolan/internal/datapath"
)

// After Unpublish the kernel asks within seconds whether a connection's container
// is still there.
func TestUnpublishProbesConnections(t *testing.T) {
	t.Run("as they are", func(t *testing.T) { probed(t, "") })
	t.Run("with a PROXY header", func(t *testing.T) { probed(t, proxyLabel) })
}

// probed is the test for a container with a label that names its port.
func probed(t *testing.T, label string) {
	t.Helper()
	at := container(t, "127.0.0.1:0", "hi")
	table, _ := newTable(t, func(c *Config) {
		c.Labels = func(context.Context, netip.Addr) (map[string]string, error) {
			return map[string]string{label: strconv.Itoa(int(at.Port()))}, nil
		}
	})
	b := tcp(freePort(t, "tcp", "127.0.0.1"), at)
	must(t, table.Publish(t.Context(), b))
	greeting(t, b.Host.String(), "hi")
	inner := onlyConn(t, table, b.Host)
	if got := option(t, inner, unix.TCP_USER_TIMEOUT); got != 0 {
		t.Errorf("TCP_USER_TIMEOUT before = %d", got)
	}
	must(t, table.Unpublish(t.Context(), b))
	for name, want := range map[int]int{
		unix.TCP_USER_TIMEOUT: int(probeLimit.Milliseconds()),
		unix.TCP_KEEPIDLE:     int(probeIdle.Seconds()),
		unix.TCP_KEEPINTVL:    int(probeInterval.Seconds()),
		unix.TCP_KEEPCNT:      probeCount,
	} {
		if got := option(t, inner, name); got != want {
			t.Errorf("option %d = %d, want %d", name, got, want)
		}
	}
}

// onlyConn is the container's side of the one connection.
func onlyConn(t *testing.T, table *Table, host netip.AddrPort) datapath.Conn {
	t.Helper()
	table.mu.Lock()
	defer table.mu.Unlock()
	for k, e := range table.entries {
		if k.host != host {
			continue
		}
		e.conns.mu.Lock()
		defer e.conns.mu.Unlock()
		var c datapath.Conn
		for c = range e.conns.conns {
		}
		if len(e.conns.conns) == 1 {
			return c
		}
	}
	t.Fatal("want one connection")
	return nil
}

func option(t *testing.T, c datapath.Conn, name int) (value int) {
	t.Helper()
	err := net.ErrClosed
	onSocket(c, func(fd int) { value, err = unix.GetsockoptInt(fd, unix.IPPROTO_TCP, name) })
	must(t, err)
	return value
}
