package bench

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
)

// largeMTU is the MTU of Portolan's own link, and here of all that is compared.
const largeMTU = 65520

// containerMTU is that of the engine's networks, unless somebody chooses another one.
const containerMTU = 1500

// outputGrace is how long a program's children may hold its output open.
const outputGrace = 2 * time.Second

// commander prepares a program that runs somewhere: in a namespace, a container.
type commander func(ctx context.Context, name string, args ...string) *exec.Cmd

// space is a network namespace with lo up.
type space struct {
	ns netns.NsHandle
	nl *netlink.Handle
}

func newSpace(t testing.TB) *space {
	t.Helper()
	runtime.LockOSThread()
	home, err := netns.Get()
	check(t, err)
	ns, err := netns.New()
	check(t, err)
	check(t, netns.Set(home))
	check(t, home.Close())
	runtime.UnlockOSThread()
	nl, err := netlink.NewHandleAt(ns)
	check(t, err)
	t.Cleanup(func() {
		nl.Close()
		check(t, ns.Close())
	})
	s := &space{ns: ns, nl: nl}
	s.up(t, "lo", "")
	return s
}

// command implements commander. The program dies with the test process.
func (s *space) command(ctx context.Context, name string, args ...string) *exec.Cmd {
	return entered(ctx, []string{fmt.Sprintf("--net=/proc/%d/fd/%d", os.Getpid(), int(s.ns))}, name, args...)
}

func entered(ctx context.Context, enter []string, name string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, "nsenter", append(append(enter, "--", name), args...)...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	cmd.WaitDelay = outputGrace
	return cmd
}

// up brings an interface up, with an address unless it is "".
func (s *space) up(t testing.TB, name, address string) {
	t.Helper()
	link, err := s.nl.LinkByName(name)
	check(t, err)
	if address != "" {
		addr, err := netlink.ParseAddr(address)
		check(t, err)
		check(t, s.nl.AddrAdd(link, addr))
	}
	check(t, s.nl.LinkSetUp(link))
}

// route sends everything to gateway.
func (s *space) route(t testing.TB, gateway string) {
	t.Helper()
	addr, err := netlink.ParseAddr(gateway + "/32")
	check(t, err)
	check(t, s.nl.RouteAdd(&netlink.Route{Gw: addr.IP}))
}

// connect lays a cable between two namespaces, with the same name at both ends.
func connect(t testing.TB, a, b *space, name string, mtu int) {
	t.Helper()
	check(t, a.nl.LinkAdd(&netlink.Veth{
		LinkAttrs: netlink.LinkAttrs{Name: name, MTU: mtu},
		PeerName:  name, PeerMTU: uint32(mtu), PeerNamespace: netlink.NsFd(int(b.ns)),
	}))
}

// newForwarding makes three computers in a row, the middle one forwarding: the
// least that carries packets from one network into another.
//
//	client .1.2 -- .1.1 forwarder .2.1 -- .2.2 server
func newForwarding(t testing.TB, mtu int) (client, server *space) {
	t.Helper()
	client, server = newSpace(t), newSpace(t)
	forwarder := newSpace(t)
	connect(t, client, forwarder, "net1", mtu)
	connect(t, forwarder, server, "net2", mtu)
	client.up(t, "net1", clientAddress+"/24")
	forwarder.up(t, "net1", "10.99.1.1/24")
	forwarder.up(t, "net2", "10.99.2.1/24")
	server.up(t, "net2", serverAddress+"/24")
	client.route(t, "10.99.1.1")
	server.route(t, serverGateway)
	out, err := forwarder.command(t.Context(), "sh", "-c", "echo 1 >/proc/sys/net/ipv4/ip_forward").CombinedOutput()
	if err != nil {
		t.Fatalf("switch forwarding on: %v: %s", err, out)
	}
	return client, server
}

const (
	clientAddress = "10.99.1.2"
	serverAddress = "10.99.2.2"
	serverGateway = "10.99.2.1"
)

// start runs a program until the benchmark ends.
func start(t testing.TB, cmd *exec.Cmd) *exec.Cmd {
	t.Helper()
	log, err := os.CreateTemp(t.TempDir(), "log")
	check(t, err)
	cmd.Stdout, cmd.Stderr = log, log
	check(t, cmd.Start())
	t.Cleanup(func() {
		_ = cmd.Process.Kill() // may have ended
		_ = cmd.Wait()
		if t.Failed() {
			text, _ := os.ReadFile(log.Name()) // for people only
			t.Logf("%v: %s", cmd.Args, text)
		}
		log.Close()
	})
	return cmd
}

func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !ok(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("wait until %s: not so", what)
		}
	}
}

func mustFind(t testing.TB, program string) string {
	t.Helper()
	path, err := exec.LookPath(program)
	check(t, err)
	return path
}

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
