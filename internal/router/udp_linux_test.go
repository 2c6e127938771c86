package router

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"net"
	"net/netip"
	"os"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/portolan-net/portolan/internal/datapath"
	"github.com/portolan-net/portolan/internal/portolan"
)

var datagramSizes = []int{0, 1, 1400, 9000, 65507}

// echoUDP is a handler that sends every datagram back.
type echoUDP struct {
	fakeHandler
	mu    sync.Mutex
	flows []portolan.Flow
}

// serve sets d, which the handler answers through.
func (h *echoUDP) serve(t *testing.T, d *Datapath) {
	h.udp = func(flow portolan.Flow, payload []byte) {
		h.mu.Lock()
		h.flows = append(h.flows, flow)
		h.mu.Unlock()
		if err := d.ReplyUDP(flow, payload); err != nil {
			t.Errorf("reply: %v", err)
		}
	}
}

func (h *echoUDP) last() portolan.Flow {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.flows[len(h.flows)-1]
}

// attachEcho attaches before the handler knows its datapath: nothing arrives yet.
func attachEcho(t *testing.T, l *lab) (*Datapath, *echoUDP) {
	t.Helper()
	d, err := Attach(t.Context(), l.socket, portolan.DefaultLink(), testLog(t))
	if err != nil {
		t.Fatal(err)
	}
	h := &echoUDP{}
	h.serve(t, d)
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	done := make(chan error, 1)
	go func() { done <- d.Run(ctx, h) }()
	t.Cleanup(func() {
		cancel()
		if err := errors.Join(<-done, d.Close()); err != nil {
			t.Errorf("run datapath: %v", err)
		}
	})
	return d, h
}

func TestUDP(t *testing.T) {
	l := newLab(t)
	_, h := attachEcho(t, l)
	both(t, func(t *testing.T, server, container netip.Addr) {
		dst := netip.AddrPortFrom(server, 5300)
		conn, err := l.dial("udp", dst, time.Second)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		for _, size := range datagramSizes {
			checkDatagram(t, conn, size)
		}
		src := conn.LocalAddr().(*net.UDPAddr).AddrPort()
		if want := (portolan.Flow{Proto: portolan.UDP, Src: src, Dst: dst}); h.last() != want || src.Addr() != container {
			t.Errorf("flow = %v, want %v", h.last(), want)
		}
	})
}

// checkDatagram sends one datagram and wants the same back. The first try of a
// size must succeed: nothing here may be lost.
func checkDatagram(t *testing.T, conn net.Conn, size int) {
	t.Helper()
	want := make([]byte, size)
	rand.Read(want)
	if _, err := conn.Write(want); err != nil {
		t.Fatalf("send %d bytes: %v", size, err)
	}
	if err := conn.SetReadDeadline(time.Now().Add(5 * time.Second)); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, udpRoom)
	n, err := conn.Read(got)
	if err != nil || !bytes.Equal(got[:n], want) {
		t.Fatalf("echo of %d bytes: %d bytes, %v", size, n, err)
	}
}

func TestDialUDP(t *testing.T) {
	l := newLab(t)
	d := l.attach(t, &fakeHandler{})
	both(t, func(t *testing.T, server, container netip.Addr) {
		client := client4
		if server.Is6() {
			client = client6
		}
		src, dst := netip.AddrPortFrom(client, 7946), netip.AddrPortFrom(container, 7946)
		seen := l.echoFrom(t, dst)
		conn, err := d.DialUDP(t.Context(), src, dst)
		if err != nil {
			t.Fatal(err)
		}
		for _, size := range datagramSizes {
			checkDatagram(t, conn, size)
			if from := <-seen; from != src {
				t.Errorf("container sees %s, want %s", from, src)
			}
		}
		// The same four-tuple is taken, another port of the container is not.
		second, err := d.DialUDP(t.Context(), src, dst)
		if err != nil {
			t.Fatal(err)
		}
		defer second.Close()
		checkDatagram(t, second, 10)
		if from := <-seen; from.Addr() != client || from.Port() == src.Port() {
			t.Errorf("second socket has %s", from)
		}
		other := l.echoFrom(t, netip.AddrPortFrom(container, 7947))
		third, err := d.DialUDP(t.Context(), src, netip.AddrPortFrom(container, 7947))
		if err != nil {
			t.Fatal(err)
		}
		defer third.Close()
		checkDatagram(t, third, 10)
		if from := <-other; from != src {
			t.Errorf("towards another port the container sees %s, want %s", from, src)
		}
		// Detached it is still taken.
		fd, release, err := conn.(datapath.Detacher).Detach()
		if err != nil {
			t.Fatal(err)
		}
		fourth, err := d.DialUDP(t.Context(), src, dst)
		if err != nil {
			t.Fatal(err)
		}
		defer fourth.Close()
		checkDatagram(t, fourth, 10)
		if from := <-seen; from.Port() == src.Port() {
			t.Errorf("beside a detached socket another one has %s, too", from)
		}
		// Once closed, the port is free again, beside a reply socket on it.
		_ = unix.Close(fd)
		release()
		if err := d.ReplyUDP(portolan.Flow{Src: dst, Dst: netip.AddrPortFrom(server, 7946)}, []byte("x")); err != nil {
			t.Error(err)
		}
		<-seen
		again, err := d.DialUDP(t.Context(), src, dst)
		if err != nil {
			t.Fatal(err)
		}
		defer again.Close()
		checkDatagram(t, again, 10)
		if from := <-seen; from != src {
			t.Errorf("after close the container sees %s, want %s", from, src)
		}
	})
}

// echoFrom echoes datagrams in the container and tells their sources.
func (l *lab) echoFrom(t *testing.T, addr netip.AddrPort) <-chan netip.AddrPort {
	t.Helper()
	var conn *net.UDPConn
	l.container.do(t, func() error {
		var err error
		conn, err = net.ListenUDP("udp", net.UDPAddrFromAddrPort(addr))
		return err
	})
	seen := make(chan netip.AddrPort, 16)
	var done sync.WaitGroup
	done.Go(func() {
		buf := make([]byte, udpRoom)
		for {
			n, from, err := conn.ReadFromUDPAddrPort(buf)
			if err != nil {
				return
			}
			seen <- unmap(from)
			_, _ = conn.WriteToUDPAddrPort(buf[:n], from)
		}
	})
	t.Cleanup(func() {
		_ = conn.Close()
		done.Wait()
	})
	return seen
}

func TestRefuseUDP(t *testing.T) {
	l := newLab(t)
	reasons := make(chan error, 1)
	h := &fakeHandler{}
	d, err := Attach(t.Context(), l.socket, portolan.DefaultLink(), testLog(t))
	if err != nil {
		t.Fatal(err)
	}
	h.udp = func(flow portolan.Flow, payload []byte) {
		if err := d.RefuseUDP(flow, payload, <-reasons); err != nil {
			t.Errorf("refuse: %v", err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- d.Run(ctx, h) }()
	defer func() {
		cancel()
		if err := errors.Join(<-done, d.Close()); err != nil {
			t.Error(err)
		}
	}()
	both(t, func(t *testing.T, server, _ netip.Addr) {
		gateway := portolan.DefaultLink().Gateway().For(server)
		for _, addr := range []netip.Addr{server, gateway} {
			for _, c := range []struct{ reason, want error }{
				{unix.ECONNREFUSED, unix.ECONNREFUSED},
				{unix.EHOSTUNREACH, unix.EHOSTUNREACH},
				{unix.ENETUNREACH, unix.ENETUNREACH},
			} {
				for _, size := range []int{1, 9000} {
					reasons <- c.reason
					if err := l.sendAndWait(netip.AddrPortFrom(addr, 9), size); !errors.Is(err, c.want) {
						t.Errorf("%d bytes to %s, refused with %v: %v", size, addr, c.reason, err)
					}
				}
			}
		}
	})
}

// sendAndWait sends from a connected socket of the container, which asks for
// every ICMP error, and waits for one.
func (l *lab) sendAndWait(dst netip.AddrPort, size int) error {
	conn, err := l.dial("udp", dst, time.Second)
	if err != nil {
		return err
	}
	defer conn.Close()
	raw, err := conn.(*net.UDPConn).SyscallConn()
	if err != nil {
		return err
	}
	level, name := unix.SOL_IP, unix.IP_RECVERR
	if dst.Addr().Is6() {
		level, name = unix.SOL_IPV6, unix.IPV6_RECVERR
	}
	if err := raw.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), level, name, 1) }); err != nil {
		return err
	}
	if _, err := conn.Write(make([]byte, size)); err != nil {
		return err
	}
	_ = conn.SetReadDeadline(time.Now().Add(5 * time.Second))
	_, err = conn.Read(make([]byte, 1))
	return err
}

// TestUnservedDatagramCrossesOnce counts what e0 carries for a datagram that
// the handler ignores, and for one whose source the machine does not have.
func TestUnservedDatagramCrossesOnce(t *testing.T) {
	l := newLab(t)
	got := make(chan portolan.Flow, 4)
	d := l.attach(t, &fakeHandler{udp: func(flow portolan.Flow, _ []byte) { got <- flow }})
	both(t, func(t *testing.T, server, container netip.Addr) {
		for _, known := range []bool{true, false} {
			d.SetSources([]netip.Prefix{netip.PrefixFrom(container, container.BitLen())})
			if !known {
				d.SetSources([]netip.Prefix{})
			}
			count := l.countOnLink(t, 4242)
			conn, err := l.dial("udp", netip.AddrPortFrom(server, 4242), time.Second)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := conn.Write([]byte("once")); err != nil {
				t.Error(err)
			}
			select {
			case flow := <-got:
				if !known {
					t.Errorf("handler gets %v", flow)
				}
			case <-time.After(300 * time.Millisecond):
				if known {
					t.Error("handler gets nothing")
				}
			}
			if n := count(); n != 1 {
				t.Errorf("the datagram crossed the link %d times, want once", n)
			}
			_ = conn.Close()
		}
	})
}

// countOnLink counts packets with a destination port on e0, both directions,
// until the returned function is called.
func (l *lab) countOnLink(t *testing.T, port uint16) func() int {
	t.Helper()
	var file *os.File
	l.helper.do(t, func() error {
		const all = unix.ETH_P_ALL>>8 | unix.ETH_P_ALL&0xff<<8 // network byte order
		fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, all)
		if err != nil {
			return err
		}
		file = os.NewFile(uintptr(fd), "packets")
		dev, err := net.InterfaceByName(linkName)
		if err != nil {
			return err
		}
		return unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: all, Ifindex: dev.Index})
	})
	return func() int {
		defer file.Close()
		time.Sleep(100 * time.Millisecond) // for a second one to come round
		n := 0
		buf := make([]byte, maxPacket)
		_ = file.SetReadDeadline(time.Now().Add(10 * time.Millisecond))
		for {
			size, err := file.Read(buf)
			if err != nil {
				return n
			}
			p, ok := parsePacket(buf[:size])
			if ok && p.proto == protoUDP && len(p.payload) >= 8 && uint16(p.payload[2])<<8|uint16(p.payload[3]) == port {
				n++
			}
		}
	}
}

// Who replies does not wait for the helper: what needs a new socket comes once there
// is one, and what is more than may wait is lost.
func TestReplyDoesNotWait(t *testing.T) {
	l := newLab(t)
	d := l.attach(t, &fakeHandler{})
	flow := portolan.Flow{Proto: portolan.UDP, Src: netip.AddrPortFrom(container4, 9)}
	var client *net.UDPConn
	l.container.do(t, func() (err error) {
		client, err = net.ListenUDP("udp4", net.UDPAddrFromAddrPort(flow.Src))
		return err
	})
	defer client.Close()
	const ports = 3 * poolSize
	for port := range uint16(ports) {
		flow.Dst = netip.AddrPortFrom(server4, port+1)
		if err := d.ReplyUDP(flow, []byte("x")); err != nil {
			t.Fatal(err)
		}
	}
	_ = client.SetReadDeadline(time.Now().Add(10 * time.Second))
	for n := range ports {
		if _, err := client.Read(make([]byte, 1)); err != nil {
			t.Fatalf("after %d of %d replies: %v", n, ports, err)
		}
	}
	d.replies.waiting.Store(maxWaiting)
	eventually(t, "a reply is lost", func() bool {
		for taken := true; taken; {
			var fd int
			if fd, taken = d.pool.take(kindFor(false, server4)); taken {
				_ = unix.Close(fd)
			}
		}
		flow.Dst = netip.AddrPortFrom(server4, flow.Dst.Port()+1)
		return errors.Is(d.ReplyUDP(flow, []byte("x")), errNoneReady)
	})
	d.replies.waiting.Store(0)
}

func TestReplySocketsAreBounded(t *testing.T) {
	l := newLab(t)
	d := l.attach(t, &fakeHandler{})
	flow := portolan.Flow{Proto: portolan.UDP, Src: netip.AddrPortFrom(container4, 9)}
	for port := range uint16(maxReplySockets + 20) {
		flow.Dst = netip.AddrPortFrom(server4, port+1)
		eventually(t, "a reply is taken", func() bool {
			err := d.ReplyUDP(flow, nil)
			if err != nil && !errors.Is(err, errNoneReady) {
				t.Fatal(err)
			}
			return err == nil
		})
	}
	eventually(t, "no reply waits for a socket", func() bool { return d.replies.waiting.Load() == 0 })
	if n := len(d.replies.sockets); n != maxReplySockets {
		t.Errorf("%d reply sockets, want %d", n, maxReplySockets)
	}
	d.replies.sweep(time.Now())
	if n := len(d.replies.sockets); n != 0 {
		t.Errorf("%d reply sockets after all were idle", n)
	}
	if err := d.ReplyUDP(flow, nil); err != nil {
		t.Errorf("reply after idle time: %v", err)
	}
}
