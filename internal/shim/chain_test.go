//go:build linux

package shim

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/portolan-net/portolan/internal/agentlink"
	"github.com/portolan-net/portolan/internal/api"
	"github.com/portolan-net/portolan/internal/datapath"
	"github.com/portolan-net/portolan/internal/portolan"
	"github.com/portolan-net/portolan/internal/publish"
	"github.com/portolan-net/portolan/internal/relay"
)

// The chain from a shim's process to the host's listener, with all parts real
// but the way into the machine. Host and machine are one network namespace here,
// so the machine's socket is bound to another loopback address.

// host is a daemon with a port table.
type host struct {
	*publish.Table
}

func (host) SetEngine(api.Engine)       {}
func (host) SetNetworks([]netip.Prefix) {}

func (host) SetHostNetwork(portolan.HostNetwork) {}
func (host) Listeners() []string                 { return nil }
func (host) Forward(context.Context, string, func() (*net.UnixConn, error)) error {
	return nil
}

// loopback dials containers that are sockets of this process.
type loopback struct{ datapath.Machine }

func (loopback) DialTCP(ctx context.Context, _ netip.Addr, dst netip.AddrPort) (datapath.Conn, error) {
	var d net.Dialer
	c, err := d.DialContext(ctx, "tcp", dst.String())
	if err != nil {
		return nil, err
	}
	return c.(*net.TCPConn), nil
}

func (loopback) DialUDP(ctx context.Context, _, dst netip.AddrPort) (net.Conn, error) {
	var d net.Dialer
	return d.DialContext(ctx, "udp", dst.String())
}

// startHost serves agents on socket; stop ends it as the end of the daemon's
// process does.
func startHost(t *testing.T, socket string) (h host, stop func()) {
	t.Helper()
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	h.Table = publish.New(publish.Config{
		Link: portolan.DefaultLink(), Machine: loopback{}, Log: logger(t), Grace: limit,
		Relay: relay.Start,
	})
	stop = background(t, func(ctx context.Context) {
		if err := agentlink.Serve(ctx, l, h, logger(t)); err != nil {
			t.Errorf("Serve: %v", err)
		}
		h.Close()
	})
	return h, stop
}

// startLinkedAgent is an agent with its link to the daemon.
func startLinkedAgent(t *testing.T, shims, daemon string) agent {
	t.Helper()
	client := agentlink.NewClient(daemon, logger(t))
	a := startAgent(t, shims, client)
	stopLink := background(t, func(ctx context.Context) { client.Run(ctx, a.Sync) })
	stop := a.stop
	a.stop = func() { stopLink(); stop() }
	return a
}

func (h host) wantPorts(t *testing.T, n int) {
	t.Helper()
	for end := time.Now().Add(limit); ; time.Sleep(10 * time.Millisecond) {
		ports := h.List()
		ok := len(ports) == n
		for _, p := range ports {
			ok = ok && p.Error == ""
		}
		if ok {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("ports = %+v, want %d that stand", ports, n)
		}
	}
}

func TestChain(t *testing.T) {
	checkDescriptors(t)
	dir := t.TempDir()
	shims, daemon := filepath.Join(dir, "shim.sock"), filepath.Join(dir, "daemon")
	_, stopHost := startHost(t, daemon)
	a := startLinkedAgent(t, shims, daemon)

	b := portolan.Binding{Proto: portolan.TCP, Host: freeAt(t, portolan.TCP, "127.0.0.1"), Container: echoTCP(t, "127.0.0.1:0")}
	inside := netip.AddrPortFrom(netip.MustParseAddr("127.0.0.2"), b.Host.Port())
	p := published(t, shims, b, bound(t, portolan.TCP, inside, true))
	answers(t, portolan.TCP, b.Host)
	answers(t, portolan.TCP, inside)

	t.Log("a second binding of the same port is refused")
	other := b
	other.Container = netip.MustParseAddrPort("172.17.0.9:80")
	refused := startShim(t, shims, portolan.Binding{Proto: b.Proto, Host: netip.AddrPortFrom(netip.IPv4Unspecified(), b.Host.Port()), Container: other.Container}, nil)
	want := fmt.Sprintf("1\nlisten on 0.0.0.0:%d/tcp: address already in use", b.Host.Port())
	if !strings.HasPrefix(refused.status, want) {
		t.Errorf("status = %q, want %q", refused.status, want)
	}

	t.Log("the daemon restarts")
	stopHost()
	h, _ := startHost(t, daemon)
	h.wantPorts(t, 1)
	answers(t, portolan.TCP, b.Host)

	t.Log("the agent restarts")
	a.stop()
	startLinkedAgent(t, shims, daemon)
	answers(t, portolan.TCP, b.Host) // nothing was closed
	h.wantPorts(t, 1)

	t.Log("the engine dies, and its successor publishes the same")
	p.end(t, syscall.SIGTERM)
	answers(t, portolan.TCP, b.Host)
	since := h.List()[0].Since
	p = published(t, shims, b, nil)
	answers(t, portolan.TCP, b.Host)
	if again := h.List(); len(again) != 1 || !again[0].Since.Equal(since) {
		t.Errorf("ports = %+v, want the one since %v", again, since)
	}

	t.Log("the engine unpublishes")
	p.end(t, syscall.SIGINT)
	if l := h.List(); len(l) != 0 {
		t.Errorf("ports = %+v after unpublishing", l)
	}
	isFree(t, portolan.TCP, b.Host)
}

// dockerd starts a container but once by itself. Its port waits for the daemon.
func TestChainWithoutDaemon(t *testing.T) {
	checkDescriptors(t)
	dir := t.TempDir()
	shims, daemon := filepath.Join(dir, "shim.sock"), filepath.Join(dir, "daemon")
	startLinkedAgent(t, shims, daemon)
	b := portolan.Binding{Proto: portolan.TCP, Host: freeAt(t, portolan.TCP, "127.0.0.1"), Container: echoTCP(t, "127.0.0.1:0")}
	begin := time.Now()
	p := published(t, shims, b, nil)
	if took := time.Since(begin); took > startLimit {
		t.Errorf("the engine waits %v", took)
	}
	h, _ := startHost(t, daemon)
	h.wantPorts(t, 1)
	answers(t, portolan.TCP, b.Host)
	p.end(t, syscall.SIGINT)
	isFree(t, portolan.TCP, b.Host)
}

// Hundreds of shims wait on a busy machine.
func TestWaitingShimHoldsFewDescriptors(t *testing.T) {
	socket, d := socketPath(t), newDaemon()
	startAgent(t, socket, d)
	b := portolan.Binding{Proto: portolan.TCP, Host: netip.MustParseAddrPort("0.0.0.0:80"), Container: netip.MustParseAddrPort("172.17.0.2:80")}
	p := published(t, socket, b, nil)
	entries, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", p.cmd.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	if len(entries) > 8 {
		t.Errorf("a waiting shim has %d descriptors", len(entries))
	}
	p.end(t, syscall.SIGINT)
}
