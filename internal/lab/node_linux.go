package lab

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// markVariable is in the environment of every program that the lab starts.
const markVariable = "PORTOLAN_LAB"

// outputGrace is how long a program's descendants may hold its output open
// after it has ended; Wait then returns exec.ErrWaitDelay.
const outputGrace = 10 * time.Second

// Node is one computer of the lab. Its methods are safe for concurrent use.
type Node struct {
	Name string

	mark string // the lab's directory
	ns   namespaces
	nl   *netlink.Handle
}

func newNode(name, mark string, mount func() error) (*Node, error) {
	ns, err := newNamespaces(mount)
	if err != nil {
		return nil, err
	}
	n := &Node{Name: name, mark: mark, ns: ns}
	if n.nl, err = netlink.NewHandleAt(netns.NsHandle(ns.net.Fd())); err != nil {
		ns.close()
		return nil, fmt.Errorf("open netlink: %w", err)
	}
	return n, nil
}

func (n *Node) close() {
	n.nl.Close()
	n.ns.close()
}

// Do runs f on the calling goroutine with its thread in the node's network
// namespace; sockets made there stay there. Goroutines that f starts are
// outside. /proc/thread-self/net and /proc/sys/net are the node's.
func (n *Node) Do(f func() error) error { return inNetNS(n.ns.net, f) }

// NetNS is a path that names the node's network namespace while the lab lives.
func (n *Node) NetNS() string { return procFD(n.ns.net) }

func procFD(f *os.File) string { return fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), f.Fd()) }

// Listen is net.Listen on the node, without MPTCP.
func (n *Node) Listen(network, addr string) (ln net.Listener, err error) {
	var lc net.ListenConfig
	lc.SetMultipathTCP(false)
	err = n.Do(func() error {
		ln, err = lc.Listen(context.Background(), network, addr)
		return err
	})
	return ln, err
}

// ListenPacket is net.ListenPacket on the node.
func (n *Node) ListenPacket(network, addr string) (pc net.PacketConn, err error) {
	err = n.Do(func() error {
		pc, err = (&net.ListenConfig{}).ListenPacket(context.Background(), network, addr)
		return err
	})
	return pc, err
}

// Dial is net.Dial on the node. addr must be numeric: a name would be looked up
// outside the node.
func (n *Node) Dial(ctx context.Context, network, addr string) (c net.Conn, err error) {
	if _, err := netip.ParseAddrPort(addr); err != nil && !strings.HasPrefix(network, "unix") {
		return nil, fmt.Errorf("dial %s on %s: %w", addr, n.Name, err)
	}
	err = n.Do(func() error {
		c, err = (&net.Dialer{}).DialContext(ctx, network, addr)
		return err
	})
	return c, err
}

// Command prepares a program that runs on the node. Its process is a direct
// child, has the working directory of the test unless Dir is a directory the
// node sees elsewhere, and dies with the test process. Set Env by appending to
// it, so that the lab's mark stays.
func (n *Node) Command(ctx context.Context, name string, args ...string) *exec.Cmd {
	enter := []string{"--net=" + procFD(n.ns.net)}
	if n.ns.mnt != nil {
		enter = append(enter, "--mount="+procFD(n.ns.mnt))
		if wd, err := os.Getwd(); err == nil {
			enter = append(enter, "--wdns="+wd)
		}
	}
	enter = append(append(enter, "--", name), args...)
	cmd := exec.CommandContext(ctx, "nsenter", enter...)
	cmd.Env = append(os.Environ(), markVariable+"="+n.mark)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	cmd.WaitDelay = outputGrace
	return cmd
}

// Run runs a program on the node and returns what it wrote to both outputs.
// It ends the test when the program fails.
func (n *Node) Run(t testing.TB, name string, args ...string) string {
	t.Helper()
	out, err := n.Command(t.Context(), name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s: run %s %s: %v\n%s", n.Name, name, strings.Join(args, " "), err, out)
	}
	return string(out)
}

// AddAddress gives an interface of the node one more address, usable at once.
func (n *Node) AddAddress(iface string, prefix netip.Prefix) error {
	link, err := n.nl.LinkByName(iface)
	if err != nil {
		return fmt.Errorf("find interface %s of %s: %w", iface, n.Name, err)
	}
	addr, err := netlink.ParseAddr(prefix.String())
	if err != nil {
		return fmt.Errorf("add address %s: %w", prefix, err)
	}
	if prefix.Addr().Is6() {
		addr.Flags = syscall.IFA_F_NODAD
	}
	if err := n.nl.AddrAdd(link, addr); err != nil {
		return fmt.Errorf("add address %s to %s of %s: %w", prefix, iface, n.Name, err)
	}
	return n.awaitLocal(prefix.Addr())
}

// kernelPatience bounds the wait for what the kernel puts off to a worker.
const kernelPatience = 5 * time.Second

// awaitLocal waits until the node takes packets to an address of its own. The
// kernel adds the route of an IPv6 address later than the address.
func (n *Node) awaitLocal(addr netip.Addr) error {
	for end := time.Now().Add(kernelPatience); ; time.Sleep(time.Millisecond) {
		routes, err := n.nl.RouteGet(addr.AsSlice())
		if err == nil && len(routes) == 1 && routes[0].Type == unix.RTN_LOCAL {
			return nil
		}
		if time.Now().After(end) {
			return fmt.Errorf("wait for the local route of %s on %s: %w", addr, n.Name, os.ErrDeadlineExceeded)
		}
	}
}

// setSysctls writes files below /proc/sys, given as "net/ipv4/ip_forward=1".
func (n *Node) setSysctls(settings ...string) error {
	return n.Do(func() error {
		var errs []error
		for _, s := range settings {
			key, value, _ := strings.Cut(s, "=")
			if err := os.WriteFile("/proc/sys/"+key, []byte(value), 0); err != nil {
				errs = append(errs, fmt.Errorf("set sysctl %s on %s: %w", s, n.Name, err))
			}
		}
		return errors.Join(errs...)
	})
}
