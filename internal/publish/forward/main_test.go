//go:build linux

package forward

import (
	"context"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/portolan-net/portolan/internal/datapath"
	"github.com/portolan-net/portolan/internal/relay"
)

// limit is a deadline that only a hang reaches.
const limit = 10 * time.Second

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("github.com/portolan-net/portolan/internal/poll.(*Loop).run"))
}

func relayTCP(ctx context.Context, a, b datapath.Conn, done func()) {
	relay.Start(ctx, a, b, func(relay.Stats) { done() })
}

func logger(t *testing.T) *slog.Logger {
	t.Helper()
	return slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelDebug}))
}

// checkDescriptors fails the test when it leaves descriptors behind.
func checkDescriptors(t *testing.T) {
	t.Helper()
	before := descriptors(t)
	t.Cleanup(func() {
		var after int
		for end := time.Now().Add(limit); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
			if after = descriptors(t); after <= before {
				return
			}
		}
		t.Errorf("%d descriptors are open, %d were before the test", after, before)
	})
}

func descriptors(t *testing.T) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, e := range entries {
		if target, err := os.Readlink("/proc/self/fd/" + e.Name()); err == nil && target != "anon_inode:[eventpoll]" && target != "anon_inode:[eventfd]" && target[0] != 'p' {
			n++ // not the runtime's, and not the relay's pool of pipes
		}
	}
	return n
}

func listenTCP(t *testing.T, address string) *net.TCPListener {
	t.Helper()
	var lc net.ListenConfig
	lc.SetMultipathTCP(false)
	l, err := lc.Listen(t.Context(), "tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return l.(*net.TCPListener)
}

func listenUDP(t *testing.T, network, address string) *net.UDPConn {
	t.Helper()
	var lc net.ListenConfig
	c, err := lc.ListenPacket(t.Context(), network, address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c.(*net.UDPConn)
}

func addrPort(t *testing.T, a net.Addr) netip.AddrPort {
	t.Helper()
	parsed, err := netip.ParseAddrPort(a.String())
	if err != nil {
		t.Fatal(err)
	}
	return parsed
}

// serve runs a server for the length of the test.
func serve(t *testing.T, run func(context.Context) error) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- run(ctx) }()
	t.Cleanup(func() {
		cancel()
		select {
		case err := <-done:
			if err != nil {
				t.Errorf("Serve: %v", err)
			}
		case <-time.After(limit):
			t.Error("Serve does not return")
		}
	})
}
