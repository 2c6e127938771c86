//go:build linux

package shim

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/portolan-net/portolan/internal/datapath"
	"github.com/portolan-net/portolan/internal/lab"
	"github.com/portolan-net/portolan/internal/portolan"
	"github.com/portolan-net/portolan/internal/relay"
)

// limit is a deadline that only a hang reaches.
const limit = 15 * time.Second

// startLimit is the shim's START_LIMIT.
const startLimit = 12 * time.Second

// program is cmd/portolan-shim, built by TestMain.
var program string

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "portolan-shim")
	if err == nil {
		program, err = lab.BuildShim(dir)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("github.com/portolan-net/portolan/internal/poll.(*Loop).run"), goleak.Cleanup(func(code int) {
		_ = os.RemoveAll(dir)
		os.Exit(code)
	}))
}

func logger(t *testing.T) *slog.Logger {
	t.Helper()
	return slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelDebug}))
}

// fakeDaemon records what it is told.
type fakeDaemon struct {
	calls chan string
	mu    sync.Mutex // guards the one below
	err   error
}

func newDaemon() *fakeDaemon { return &fakeDaemon{calls: make(chan string, 1000)} }

func (d *fakeDaemon) refuse(err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.err = err
}

func (d *fakeDaemon) answer(verb string, b portolan.Binding) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.calls <- verb + " " + b.String()
	return d.err
}

func (d *fakeDaemon) Publish(_ context.Context, b portolan.Binding) error {
	return d.answer("publish", b)
}

func (d *fakeDaemon) Renew(_ context.Context, b portolan.Binding) error { return d.answer("renew", b) }

func (d *fakeDaemon) Unpublish(_ context.Context, b portolan.Binding) error {
	return d.answer("unpublish", b)
}

func (d *fakeDaemon) Release(_ context.Context, b portolan.Binding) error {
	return d.answer("release", b)
}

func (d *fakeDaemon) Resync() { d.calls <- "resync" }

func (d *fakeDaemon) want(t *testing.T, call string) {
	t.Helper()
	select {
	case got := <-d.calls:
		if got != call {
			t.Fatalf("the daemon is told %q, want %q", got, call)
		}
	case <-time.After(limit):
		t.Fatalf("the daemon is not told %q", call)
	}
}

// already fails the test unless the daemon has been told, after others that it
// may have been told before.
func (d *fakeDaemon) already(t *testing.T, call string, before ...string) {
	t.Helper()
	for {
		select {
		case got := <-d.calls:
			if got == call {
				return
			}
			if !slices.Contains(before, got) {
				t.Errorf("the daemon was told %q, want %q", got, call)
				return
			}
		default:
			t.Errorf("the daemon was not told %q in time", call)
			return
		}
	}
}

// agent is a running Registry.
type agent struct {
	*Registry
	stop func()
}

// startAgent serves shims on socket, and keeps d in sync.
func startAgent(t *testing.T, socket string, d Daemon, mesh ...netip.Addr) agent {
	t.Helper()
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "unixpacket", socket)
	if err != nil {
		t.Fatal(err)
	}
	r := NewRegistry(Config{Daemon: d, Log: logger(t), InMesh: func(addr netip.Addr) bool { return slices.Contains(mesh, addr) },
		Relay: func(ctx context.Context, a, b datapath.Conn, done func()) {
			relay.Start(ctx, a, b, func(relay.Stats) { done() })
		}})
	stop := background(t, func(ctx context.Context) {
		if err := r.Serve(ctx, l.(*net.UnixListener)); err != nil {
			t.Errorf("Serve: %v", err)
		}
	})
	return agent{r, stop}
}

// background runs f until the test ends or stop is called.
func background(t *testing.T, f func(context.Context)) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); f(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		select {
		case <-done:
		case <-time.After(limit):
			t.Error("a background task does not end")
		}
	})
	t.Cleanup(stop)
	return stop
}

func socketPath(t *testing.T) string { t.Helper(); return filepath.Join(t.TempDir(), "shim.sock") }

// process is a shim as dockerd sees it.
type process struct {
	cmd    *exec.Cmd
	status string // all that came over the pipe
	exited chan error
}

// startShim does what moby's StartProxy does, with socket as the bound socket.
func startShim(t *testing.T, agentSocket string, b portolan.Binding, socket *os.File, flags ...string) *process {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = r.Close() }()
	args := append([]string{
		"-proto", b.Proto.String(),
		"-host-ip", b.Host.Addr().String(), "-host-port", strconv.Itoa(int(b.Host.Port())),
		"-container-ip", b.Container.Addr().String(), "-container-port", strconv.Itoa(int(b.Container.Port())),
	}, flags...)
	var stderr bytes.Buffer
	cmd := exec.Command(beside(t, agentSocket), args...) // it ends by a signal, as under dockerd
	cmd.ExtraFiles = []*os.File{w}
	cmd.Stderr = &stderr
	if socket != nil {
		cmd.Args = append(cmd.Args, "-use-listen-fd")
		cmd.ExtraFiles = append(cmd.ExtraFiles, socket)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	_ = w.Close()
	p := &process{cmd: cmd, exited: make(chan error, 1)}
	var waiting sync.WaitGroup
	waiting.Go(func() { p.exited <- cmd.Wait() })
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		waiting.Wait()
		if stderr.Len() > 0 {
			t.Errorf("the shim writes to stderr: %s", &stderr)
		}
	})
	_ = r.SetReadDeadline(time.Now().Add(limit))
	text, err := io.ReadAll(r) // until the shim closes the pipe
	if err != nil {
		t.Fatalf("read status pipe: %v", err)
	}
	p.status = string(text)
	return p
}

// beside gives the program the name by which it finds the agent's socket.
func beside(t *testing.T, agentSocket string) string {
	t.Helper()
	name := filepath.Join(filepath.Dir(agentSocket), "docker-proxy")
	if err := os.Symlink(program, name); err != nil && !errors.Is(err, fs.ErrExist) {
		t.Fatal(err)
	}
	return name
}

// published is startShim for a shim that must succeed.
func published(t *testing.T, agentSocket string, b portolan.Binding, socket *os.File) *process {
	t.Helper()
	p := startShim(t, agentSocket, b, socket)
	if p.status != "0\n" {
		t.Fatalf("status = %q, want success", p.status)
	}
	return p
}

// end sends a signal and waits for the exit.
func (p *process) end(t *testing.T, s syscall.Signal) {
	t.Helper()
	if err := p.cmd.Process.Signal(s); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-p.exited:
		if err != nil && s != syscall.SIGKILL {
			t.Errorf("exit after %s: %v", s, err)
		}
	case <-time.After(limit):
		t.Fatalf("the shim stays after %s", s)
	}
}

// bound does what moby's OSAllocator does; listening is false for UDP and for a
// TCP socket that is only bound.
func bound(t *testing.T, proto portolan.Proto, at netip.AddrPort, listening bool) *os.File {
	t.Helper()
	f, err := tryBound(proto, at, listening)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() })
	return f
}

func tryBound(proto portolan.Proto, at netip.AddrPort, listening bool) (*os.File, error) {
	kind, family := syscall.SOCK_STREAM, syscall.AF_INET6
	var addr syscall.Sockaddr = &syscall.SockaddrInet6{Addr: at.Addr().As16(), Port: int(at.Port())}
	if at.Addr().Is4() {
		family, addr = syscall.AF_INET, &syscall.SockaddrInet4{Addr: at.Addr().As4(), Port: int(at.Port())}
	}
	if proto == portolan.UDP {
		kind = syscall.SOCK_DGRAM
	}
	fd, err := syscall.Socket(family, kind|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(fd), "bound")
	if proto == portolan.TCP {
		err = syscall.SetsockoptInt(fd, syscall.SOL_SOCKET, syscall.SO_REUSEADDR, 1)
	}
	if family == syscall.AF_INET6 {
		err = errors.Join(err, syscall.SetsockoptInt(fd, syscall.IPPROTO_IPV6, syscall.IPV6_V6ONLY, 1))
	}
	err = errors.Join(err, syscall.Bind(fd, addr))
	if err == nil && listening {
		err = syscall.Listen(fd, 128)
	}
	if err != nil {
		_ = f.Close()
		return nil, err
	}
	return f, nil
}

// isFree fails the test when somebody still holds the port, as the restore of a
// restarted dockerd would.
func isFree(t *testing.T, proto portolan.Proto, at netip.AddrPort) {
	t.Helper()
	f, err := tryBound(proto, at, proto == portolan.TCP)
	if err != nil {
		t.Errorf("bind %s again: %v", at, err)
		return
	}
	_ = f.Close()
}

// becomesFree waits for that.
func becomesFree(t *testing.T, proto portolan.Proto, at netip.AddrPort) {
	t.Helper()
	for end := time.Now().Add(limit); ; time.Sleep(5 * time.Millisecond) {
		f, err := tryBound(proto, at, proto == portolan.TCP)
		if err == nil {
			_ = f.Close()
			return
		}
		if time.Now().After(end) {
			t.Fatalf("bind %s again: %v", at, err)
		}
	}
}

// freeAt returns an address with a port below the kernel's own range.
func freeAt(t *testing.T, proto portolan.Proto, host string) netip.AddrPort {
	t.Helper()
	for range 100 {
		at := netip.AddrPortFrom(netip.MustParseAddr(host), uint16(10000+rand.N(20000)))
		if f, err := tryBound(proto, at, proto == portolan.TCP); err == nil {
			_ = f.Close()
			return at
		}
	}
	t.Fatal("found no free port")
	return netip.AddrPort{}
}

// echoTCP and echoUDP are containers.
func echoTCP(t *testing.T, address string) netip.AddrPort {
	t.Helper()
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", address)
	if err != nil {
		t.Fatal(err)
	}
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
				_, _ = io.Copy(c, c)
			})
		}
	})
	return netip.MustParseAddrPort(l.Addr().String())
}

func echoUDP(t *testing.T, address string) netip.AddrPort {
	t.Helper()
	pc, err := (&net.ListenConfig{}).ListenPacket(t.Context(), "udp", address)
	if err != nil {
		t.Fatal(err)
	}
	var serving sync.WaitGroup
	t.Cleanup(serving.Wait)
	t.Cleanup(func() { _ = pc.Close() })
	serving.Go(func() {
		buf := make([]byte, 65535)
		for {
			n, from, err := pc.ReadFrom(buf)
			if errors.Is(err, net.ErrClosed) {
				return
			}
			if err == nil {
				_, _ = pc.WriteTo(buf[:n], from)
			}
		}
	})
	return netip.MustParseAddrPort(pc.LocalAddr().String())
}

// answers fails the test unless what is sent to address is echoed.
func answers(t *testing.T, proto portolan.Proto, address netip.AddrPort) {
	t.Helper()
	d := net.Dialer{Timeout: limit}
	c, err := d.DialContext(t.Context(), proto.String(), address.String())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	_ = c.SetDeadline(time.Now().Add(limit))
	const text = "ping"
	if _, err := io.WriteString(c, text); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, len(text))
	if _, err := io.ReadFull(c, got); err != nil || string(got) != text {
		t.Fatalf("%s %s answers %q, %v", proto, address, got, err)
	}
}

// checkDescriptors fails the test when it leaves sockets behind.
func checkDescriptors(t *testing.T) {
	t.Helper()
	count := func() (n int) {
		entries, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			if target, err := os.Readlink("/proc/self/fd/" + e.Name()); err == nil && strings.HasPrefix(target, "socket:") {
				n++
			}
		}
		return n
	}
	before := count()
	t.Cleanup(func() {
		var after int
		for end := time.Now().Add(limit); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
			if after = count(); after <= before {
				return
			}
		}
		t.Errorf("%d sockets are open, %d were before the test", after, before)
	})
}
