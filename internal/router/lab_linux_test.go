package router

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/portolan-net/portolan/internal/datapath"
	"github.com/portolan-net/portolan/internal/portolan"
)

// The lab: a machine, a container in it behind an MTU of 1500, and a helper,
// each a process of this test's binary in a network namespace of its own. The
// test itself is the daemon, outside.

const roleVariable = "PORTOLAN_ROUTER_TEST_ROLE"

// The container's network.
var (
	container4 = netip.MustParseAddr("172.30.0.2")
	container6 = netip.MustParseAddr("fd00:30::2")
	// Somewhere on the Internet, and a client of a published port.
	server4 = netip.MustParseAddr("198.51.100.7")
	server6 = netip.MustParseAddr("2001:db8::7")
	client4 = netip.MustParseAddr("203.0.113.9")
	client6 = netip.MustParseAddr("2001:db8:9::9")
)

func TestMain(m *testing.M) {
	var err error
	switch os.Getenv(roleVariable) {
	case "":
		os.Exit(m.Run())
	case "hold":
		_, err = io.Copy(io.Discard, os.Stdin)
	case "helper", "bare":
		err = runHelper(os.Args[1], os.Args[2])
	case "resumed":
		err = runResumed(os.Args[1], os.Args[2])
	case "daemon":
		err = runDaemon(os.Args[1])
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

// runHelper is the helper's main.
func runHelper(socket, pid string) error {
	machine, err := strconv.Atoi(pid)
	if err != nil {
		return err
	}
	n, err := Setup(Config{Link: portolan.DefaultLink()}, machine)
	if err != nil {
		return err
	}
	ln, err := net.ListenUnix("unix", &net.UnixAddr{Name: socket})
	if err != nil {
		return err
	}
	if os.Getenv(roleVariable) == "bare" { // a router whose listeners are gone
		closeAll(n.listeners)
		n.listeners = nil
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	fmt.Println("ready")
	if err := n.Serve(ctx, ln); err != nil {
		return err
	}
	return n.Close()
}

type lab struct {
	link                       portolan.Link
	socket                     string
	machine, container, helper *process
}

func newLab(t testing.TB) *lab {
	t.Helper()
	return newLabWith(t, "helper")
}

// newLabWith starts the helper in the named role.
func newLabWith(t testing.TB, role string) *lab {
	t.Helper()
	dir, err := os.MkdirTemp("", "prouter") // t.TempDir is too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	l := &lab{link: portolan.DefaultLink(), socket: filepath.Join(dir, "s")}
	l.machine = start(t, "hold", unix.CLONE_NEWNET)
	l.container = start(t, "hold", unix.CLONE_NEWNET)
	l.helper = start(t, role, unix.CLONE_NEWNET, l.socket, strconv.Itoa(l.machine.pid()))
	l.helper.waitReady(t)
	l.machine.do(t, func() error { return l.connectContainer() })
	l.container.do(t, func() error { return l.configureContainer() })
	// A new veth loses packets until the kernel has seen its carrier.
	for _, addr := range []string{"172.30.0.1:9", "[fd00:30::1]:9"} {
		eventually(t, "machine answers", func() bool {
			_, err := l.dial("tcp", netip.MustParseAddrPort(addr), 100*time.Millisecond)
			return errors.Is(err, unix.ECONNREFUSED)
		})
	}
	return l
}

// connectContainer runs in the machine, and does what its agent and engine do.
func (l *lab) connectContainer() error {
	for _, s := range []string{"ipv4/ip_forward", "ipv6/conf/all/forwarding"} {
		if err := os.WriteFile("/proc/sys/net/"+s, []byte("1"), 0); err != nil {
			return err
		}
	}
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MTU = "c0", 1500
	veth := &netlink.Veth{LinkAttrs: attrs, PeerName: "eth0", PeerMTU: 1500, PeerNamespace: netlink.NsPid(l.container.pid())}
	if err := netlink.LinkAdd(veth); err != nil {
		return err
	}
	return addresses("c0", "172.30.0.1/24", "fd00:30::1/64")
}

func (l *lab) configureContainer() error {
	if err := addresses("eth0", "172.30.0.2/24", "fd00:30::2/64"); err != nil {
		return err
	}
	if err := linkUp("lo"); err != nil {
		return err
	}
	for _, gw := range []string{"172.30.0.1", "fd00:30::1"} {
		if err := netlink.RouteAdd(&netlink.Route{Gw: net.ParseIP(gw)}); err != nil {
			return err
		}
	}
	return nil
}

func addresses(dev string, cidrs ...string) error {
	link, err := netlink.LinkByName(dev)
	if err != nil {
		return err
	}
	for _, cidr := range cidrs {
		addr, err := netlink.ParseAddr(cidr)
		if err != nil {
			return err
		}
		addr.Flags = unix.IFA_F_NODAD
		if err := netlink.AddrAdd(link, addr); err != nil {
			return err
		}
	}
	return netlink.LinkSetUp(link)
}

// process is a child of the test.
type process struct {
	cmd   *exec.Cmd
	stdin io.Closer
	out   *bufio.Reader
	done  chan error
}

func start(t testing.TB, role string, flags uintptr, args ...string) *process {
	t.Helper()
	cmd := exec.Command(os.Args[0], args...)
	cmd.Env = append(os.Environ(), roleVariable+"="+role)
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: flags}
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatalf("start %s: %v (these tests need root)", role, err)
	}
	p := &process{cmd: cmd, stdin: in, out: bufio.NewReader(out), done: make(chan error, 1)}
	t.Cleanup(func() { p.kill() })
	return p
}

func (p *process) pid() int { return p.cmd.Process.Pid }

func (p *process) waitReady(t testing.TB) {
	t.Helper()
	if line, err := p.out.ReadString('\n'); err != nil || line != "ready\n" {
		t.Fatalf("child said %q, %v", line, err)
	}
}

func (p *process) kill() {
	_ = p.cmd.Process.Kill()
	_ = p.cmd.Wait()
}

// do runs fn in the network namespace of the process, on a thread that ends
// with it.
func (p *process) do(t testing.TB, fn func() error) {
	t.Helper()
	if err := p.try(fn); err != nil {
		t.Fatal(err)
	}
}

func (p *process) try(fn func() error) error {
	ns, err := os.Open(fmt.Sprintf("/proc/%d/ns/net", p.pid()))
	if err != nil {
		return err
	}
	defer ns.Close()
	result := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // and never unlock: the thread is not used again
		if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
			result <- err
			return
		}
		result <- fn()
	}()
	return <-result
}

// dial dials from the container.
func (l *lab) dial(network string, dst netip.AddrPort, timeout time.Duration) (conn net.Conn, err error) {
	err = l.container.try(func() error {
		dialer := net.Dialer{Timeout: timeout}
		dialer.SetMultipathTCP(false)
		conn, err = dialer.Dial(network, dst.String())
		return err
	})
	return conn, err
}

// fakeHandler is a datapath.Handler made of functions; one that is missing
// refuses or ignores.
type fakeHandler struct {
	open func(ctx context.Context, flow portolan.Flow) (datapath.Endpoint, error)
	udp  func(flow portolan.Flow, payload []byte)
	echo func(flow portolan.Flow, seq uint16, payload []byte)
}

func (h *fakeHandler) OpenTCP(ctx context.Context, flow portolan.Flow) (datapath.Endpoint, error) {
	if h.open == nil {
		return nil, unix.ECONNREFUSED
	}
	return h.open(ctx, flow)
}

func (h *fakeHandler) HandleUDP(flow portolan.Flow, payloads ...[]byte) {
	if h.udp == nil {
		return
	}
	for _, payload := range payloads {
		h.udp(flow, payload)
	}
}

func (h *fakeHandler) HandleEcho(flow portolan.Flow, seq uint16, payload []byte) {
	if h.echo != nil {
		h.echo(flow, seq, payload)
	}
}

// endpoint is a datapath.Endpoint made of functions.
type endpoint struct {
	serve  func(conn datapath.Conn)
	closed atomic.Bool
}

func (e *endpoint) Serve(ctx context.Context, conn datapath.Conn) {
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	e.serve(conn)
}

func (e *endpoint) Close() error {
	e.closed.Store(true)
	return nil
}

// echoServer sends back what it reads and half-closes after the end of file.
func echoServer(conn datapath.Conn) {
	_, _ = io.Copy(conn, conn)
	_ = conn.CloseWrite()
}

func openEcho(context.Context, portolan.Flow) (datapath.Endpoint, error) {
	return &endpoint{serve: echoServer}, nil
}

// attach is the daemon: it runs until the test ends.
func (l *lab) attach(t testing.TB, handler datapath.Handler) *Datapath {
	t.Helper()
	d, stop := l.attachUntil(t, handler)
	t.Cleanup(stop)
	return d
}

func (l *lab) attachUntil(t testing.TB, handler datapath.Handler) (d *Datapath, stop func()) {
	t.Helper()
	d, err := Attach(t.Context(), l.socket, l.link, testLog(t))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	done := make(chan error, 1)
	go func() { done <- d.Run(ctx, handler) }()
	return d, sync.OnceFunc(func() {
		cancel()
		select {
		case err := <-done:
			if err := errors.Join(err, d.Close()); err != nil {
				t.Errorf("run datapath: %v", err)
			}
		case <-time.After(10 * time.Second):
			t.Error("Run does not return")
		}
	})
}

// testLog shows the daemon's log when the test is verbose.
func testLog(t testing.TB) *slog.Logger {
	t.Helper()
	if !testing.Verbose() {
		return slog.New(slog.DiscardHandler)
	}
	return slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelDebug}))
}

// eventually waits for a condition that another process brings about.
func eventually(t testing.TB, what string, condition func() bool) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); !condition(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%s: still not after 10 s", what)
		}
	}
}

// both runs a test for each family.
func both(t *testing.T, test func(t *testing.T, server, container netip.Addr)) {
	t.Helper()
	t.Run("v4", func(t *testing.T) { test(t, server4, container4) })
	t.Run("v6", func(t *testing.T) { test(t, server6, container6) })
}

// openFiles counts a process's descriptors.
func openFiles(t testing.TB, pid int) int {
	t.Helper()
	entries, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}
