//go:build linux

package publish

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/portolan-net/portolan/internal/datapath"
	"github.com/portolan-net/portolan/internal/portolan"
	"github.com/portolan-net/portolan/internal/relay"
	"github.com/portolan-net/portolan/internal/socket"
)

// limit is a deadline that only a hang reaches.
const limit = 10 * time.Second

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("github.com/portolan-net/portolan/internal/poll.(*Loop).run"))
}

// machine dials containers that are sockets of this process, and remembers the
// sources it was asked for.
type machine struct {
	datapath.Machine // the way out is not used here

	mu      sync.Mutex // guards sources
	sources []netip.AddrPort
}

func (m *machine) saw(src netip.AddrPort) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.sources = append(m.sources, src)
}

func (m *machine) last() netip.AddrPort {
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.sources) == 0 {
		return netip.AddrPort{}
	}
	return m.sources[len(m.sources)-1]
}

func (m *machine) DialTCP(ctx context.Context, src netip.Addr, dst netip.AddrPort) (datapath.Conn, error) {
	m.saw(netip.AddrPortFrom(src, 0))
	c, err := socket.Dial(ctx, dst, nil)
	if err != nil {
		return nil, err
	}
	return c, nil
}

func (m *machine) DialUDP(ctx context.Context, src, dst netip.AddrPort) (net.Conn, error) {
	m.saw(src)
	var d net.Dialer
	return d.DialContext(ctx, "udp", dst.String())
}

// newTable returns a table with a short grace; tune may change what it needs.
func newTable(t *testing.T, tune func(*Config)) (*Table, *machine) {
	t.Helper()
	checkDescriptors(t)
	m := &machine{}
	cfg := Config{
		Link: portolan.DefaultLink(), Machine: m, Grace: limit,
		Log:   slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelDebug})),
		Relay: relay.Start,
	}
	if tune != nil {
		tune(&cfg)
	}
	table := New(cfg)
	t.Cleanup(table.Close)
	return table, m
}

// checkDescriptors fails the test when it leaves sockets behind.
func checkDescriptors(t *testing.T) {
	t.Helper()
	before := sockets(t)
	t.Cleanup(func() {
		var after int
		for end := time.Now().Add(limit); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
			if after = sockets(t); after <= before {
				return
			}
		}
		t.Errorf("%d sockets are open, %d were before the test", after, before)
	})
}

func sockets(t *testing.T) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, e := range entries {
		if target, err := os.Readlink("/proc/self/fd/" + e.Name()); err == nil && strings.HasPrefix(target, "socket:") {
			n++
		}
	}
	return n
}

// container is a TCP server that greets with its name and echoes.
func container(t *testing.T, address, name string) netip.AddrPort {
	t.Helper()
	l := listen(t, "tcp", address)
	var serving sync.WaitGroup
	t.Cleanup(serving.Wait)
	t.Cleanup(func() { _ = l.Close() })
	serving.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			serving.Go(func() {
				defer func() { _ = c.Close() }()
				_, _ = io.WriteString(c, name)
				_, _ = io.Copy(c, c)
			})
		}
	})
	return netip.MustParseAddrPort(l.Addr().String())
}

func listen(t *testing.T, network, address string) net.Listener {
	t.Helper()
	var lc net.ListenConfig
	lc.SetMultipathTCP(false)
	l, err := lc.Listen(t.Context(), network, address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return l
}

// containerUDP answers each datagram with its name and the datagram.
func containerUDP(t *testing.T, address, name string) netip.AddrPort {
	t.Helper()
	var lc net.ListenConfig
	pc, err := lc.ListenPacket(t.Context(), "udp", address)
	if err != nil {
		t.Fatal(err)
	}
	c := pc.(*net.UDPConn)
	var serving sync.WaitGroup
	t.Cleanup(serving.Wait)
	t.Cleanup(func() { _ = c.Close() })
	serving.Go(func() {
		buf := make([]byte, 65535)
		for {
			n, from, err := c.ReadFromUDPAddrPort(buf)
			if errors.Is(err, net.ErrClosed) {
				return
			}
			if err == nil {
				_, _ = c.WriteToUDPAddrPort(append([]byte(name), buf[:n]...), from)
			}
		}
	})
	return netip.MustParseAddrPort(c.LocalAddr().String())
}

// freePort returns a port of the host that nobody has at the moment, below the
// range from which the kernel takes ports for others.
func freePort(t *testing.T, network, host string) netip.AddrPort {
	t.Helper()
	network += "6"
	if netip.MustParseAddr(host).Is4() {
		network = network[:3] + "4" // Go makes 0.0.0.0 both families otherwise
	}
	for range 100 {
		p := netip.AddrPortFrom(netip.MustParseAddr(host), uint16(10000+rand.N(20000)))
		if free(t, network, p.String()) {
			return p
		}
	}
	t.Fatal("found no free port")
	return netip.AddrPort{}
}

func free(t *testing.T, network, address string) bool {
	t.Helper()
	var lc net.ListenConfig
	var c io.Closer
	var err error
	if strings.HasPrefix(network, "udp") {
		c, err = lc.ListenPacket(t.Context(), network, address)
	} else {
		c, err = lc.Listen(t.Context(), network, address)
	}
	if err == nil {
		_ = c.Close()
	}
	return err == nil
}

func dial(t *testing.T, network, address string) net.Conn {
	t.Helper()
	c, err := tryDial(t, network, address)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func tryDial(t *testing.T, network, address string) (net.Conn, error) {
	t.Helper()
	d := net.Dialer{Timeout: limit}
	c, err := d.DialContext(t.Context(), network, address)
	if err != nil {
		return nil, err
	}
	t.Cleanup(func() { _ = c.Close() })
	return c, c.SetDeadline(time.Now().Add(limit))
}

// greeting reads the name of the container at the other end.
func greeting(t *testing.T, address, want string) net.Conn {
	t.Helper()
	c := dial(t, "tcp", address)
	expect(t, c, want)
	return c
}

func expect(t *testing.T, c net.Conn, want string) {
	t.Helper()
	got := make([]byte, len(want))
	if _, err := io.ReadFull(c, got); err != nil || string(got) != want {
		t.Fatalf("read %q, %v; want %q", got, err, want)
	}
}

func ask(t *testing.T, c net.Conn, text, want string) {
	t.Helper()
	if _, err := io.WriteString(c, text); err != nil {
		t.Fatal(err)
	}
	expect(t, c, want)
}

// refused fails the test when somebody listens at address.
func refused(t *testing.T, address string) {
	t.Helper()
	if _, err := tryDial(t, "tcp", address); err == nil {
		t.Errorf("somebody listens on %s still", address)
	}
}

func tcp(host, container netip.AddrPort) portolan.Binding {
	return portolan.Binding{Proto: portolan.TCP, Host: host, Container: container}
}

func udp(host, container netip.AddrPort) portolan.Binding {
	return portolan.Binding{Proto: portolan.UDP, Host: host, Container: container}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
