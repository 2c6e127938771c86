package egress

import (
	"bytes"
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"runtime"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/portolan-net/portolan/internal/datapath"
	"github.com/portolan-net/portolan/internal/portolan"
)

// Addresses of the host in a test, beside its loopback ones, and of networks
// that its routes call unreachable.
const (
	here4, here6       = "198.51.100.1", "2001:db8:1::1"
	nowhere4, nowhere6 = "203.0.113.9", "2001:db8:9::9"
)

// enterHost puts the test's goroutine, and no other, into a network namespace
// of its own with these addresses. It ends with the test.
func enterHost(t *testing.T) {
	t.Helper()
	runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
	must(t, unix.Unshare(unix.CLONE_NEWNET))
	must(t, os.WriteFile("/proc/sys/net/ipv4/ping_group_range", []byte("0 2147483647"), 0))
	lo, err := netlink.LinkByName("lo")
	must(t, err)
	must(t, netlink.LinkSetUp(lo))
	for _, text := range []string{here4 + "/32", here6 + "/128"} {
		address, err := netlink.ParseAddr(text)
		must(t, err)
		address.Flags = unix.IFA_F_NODAD
		must(t, netlink.AddrAdd(lo, address))
	}
	awaitLocal(t, here6)
	for _, dead := range []string{nowhere4 + "/32", nowhere6 + "/128"} {
		_, network, err := net.ParseCIDR(dead)
		must(t, err)
		must(t, netlink.RouteAdd(&netlink.Route{Dst: network, Type: unix.RTN_UNREACHABLE}))
	}
}

// awaitLocal waits until the kernel delivers what is sent to a new IPv6 address:
// it adds the route in a work queue, and later than it shows the address.
func awaitLocal(t *testing.T, addr string) {
	t.Helper()
	for deadline := time.Now().Add(5 * time.Second); ; time.Sleep(time.Millisecond) {
		routes, err := netlink.RouteGet(net.ParseIP(addr))
		if err == nil && routes[0].Type == unix.RTN_LOCAL {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s is not local after 5 s: %v", addr, err)
		}
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// event is what the machine was sent for a datagram or an echo request.
type event struct {
	flow    portolan.Flow
	seq     uint16
	payload string
	reason  error
}

// fakeMachine is a datapath.Machine that records answers.
type fakeMachine struct {
	datapath.Machine // the way in is not used
	events           chan event
}

func (m *fakeMachine) ReplyUDP(flow portolan.Flow, payloads ...[]byte) error {
	for _, payload := range payloads {
		m.events <- event{flow, 0, string(payload), nil}
	}
	return nil
}

func (m *fakeMachine) RefuseUDP(flow portolan.Flow, payload []byte, reason error) error {
	m.events <- event{flow, 0, string(payload), reason}
	return nil
}

func (m *fakeMachine) ReplyEcho(flow portolan.Flow, seq uint16, payload []byte) error {
	m.events <- event{flow, seq, string(payload), nil}
	return nil
}

func (m *fakeMachine) RefuseEcho(flow portolan.Flow, seq uint16, payload []byte, reason error) error {
	m.events <- event{flow, seq, string(payload), reason}
	return nil
}

func (m *fakeMachine) next(t *testing.T) event {
	t.Helper()
	select {
	case e := <-m.events:
		return e
	case <-time.After(5 * time.Second):
		t.Fatal("the machine was sent nothing for 5 s")
		return event{}
	}
}

// fakeDNS answers every query with itself, reversed; over TCP it says hello.
type fakeDNS struct{}

func (fakeDNS) HandleUDP(query []byte, _ netip.AddrPort, reply func([]byte)) {
	answer := bytes.Clone(query)
	for i := range answer {
		answer[i] = query[len(query)-1-i]
	}
	reply(answer)
}

func (fakeDNS) ServeTCP(_ context.Context, conn datapath.Conn) {
	_, _ = conn.Write([]byte("hello"))
	_ = conn.Close()
}

// newEgress returns an Egress in a host of its own, and the machine behind it.
func newEgress(t *testing.T, change func(*Config)) (*Egress, *fakeMachine) {
	t.Helper()
	enterHost(t)
	return newLocalEgress(t, change)
}

// newLocalEgress returns an Egress on this computer, where sockets that other
// goroutines open are in the same namespace. Its tests use loopback only.
func newLocalEgress(t *testing.T, change func(*Config)) (*Egress, *fakeMachine) {
	t.Helper()
	goroutines := goleak.IgnoreCurrent()
	t.Cleanup(func() {
		goleak.VerifyNone(t, goroutines, goleak.IgnoreAnyFunction("github.com/portolan-net/portolan/internal/poll.(*Loop).run"))
	})
	machine := &fakeMachine{events: make(chan event, 100)}
	cfg := Config{Link: portolan.DefaultLink(), DNS: fakeDNS{}, Machine: machine}
	if change != nil {
		change(&cfg)
	}
	e := New(cfg)
	t.Cleanup(func() { must(t, e.Close()) })
	return e, machine
}

// flowTo is a container's flow of the same family.
func flowTo(proto portolan.Proto, dst netip.AddrPort) portolan.Flow {
	src := netip.MustParseAddrPort("172.17.0.2:40000")
	if dst.Addr().Is6() {
		src = netip.MustParseAddrPort("[fd00:17::2]:40000")
	}
	return portolan.Flow{Proto: proto, Src: src, Dst: dst}
}

func at(addr string, port uint16) netip.AddrPort {
	return netip.AddrPortFrom(netip.MustParseAddr(addr), port)
}

// serveTCP listens on addr and sends each client its greeting.
func serveTCP(t *testing.T, addr string, port uint16, greeting string) uint16 {
	t.Helper()
	l, err := net.ListenTCP("tcp", net.TCPAddrFromAddrPort(at(addr, port)))
	must(t, err)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			_, err = conn.Write([]byte(greeting))
			_ = errors.Join(err, conn.Close()) // the client tells
		}
	}()
	t.Cleanup(func() {
		_ = l.Close()
		<-ended
	})
	return l.Addr().(*net.TCPAddr).AddrPort().Port()
}

// serveUDP answers each datagram with greeting and the datagram.
func serveUDP(t *testing.T, addr string, port uint16, greeting string) uint16 {
	t.Helper()
	conn, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(at(addr, port)))
	must(t, err)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for buf := make([]byte, 1<<16); ; {
			n, from, err := conn.ReadFromUDPAddrPort(buf)
			if err != nil {
				return
			}
			_, _ = conn.WriteToUDPAddrPort(append([]byte(greeting), buf[:n]...), from)
		}
	}()
	t.Cleanup(func() {
		_ = conn.Close()
		<-ended
	})
	return conn.LocalAddr().(*net.UDPAddr).AddrPort().Port()
}
