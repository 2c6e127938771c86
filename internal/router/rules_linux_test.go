package router

import (
	"encoding/binary"
	"errors"
	"net/netip"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/portolan-net/portolan/internal/portolan"
)

// TestFloodIsLimited: one source sends more SYNs than synRate; the rest does not
// reach slow0, and other sources are not touched.
func TestFloodIsLimited(t *testing.T) {
	l := newLab(t)
	l.attach(t, &fakeHandler{open: openEcho})
	both(t, func(t *testing.T, server, container netip.Addr) {
		attacker := container.Next()
		l.checkFlood(t, []netip.Addr{attacker}, server, synRate)
		conn, err := l.dial("tcp", netip.AddrPortFrom(server, 80), 10*time.Second)
		if err != nil {
			t.Fatalf("another source: %v", err)
		}
		defer conn.Close()
		checkEcho(t, conn)
	})
}

// TestForgedFloodIsLimited: the same from all addresses of a network.
func TestForgedFloodIsLimited(t *testing.T) {
	l := newLab(t)
	l.attach(t, &fakeHandler{open: openEcho})
	both(t, func(t *testing.T, server, container netip.Addr) {
		var sources []netip.Addr
		for addr := container.Next(); len(sources) < 100; addr = addr.Next() {
			sources = append(sources, addr)
		}
		l.checkFlood(t, sources, server, netRate)
	})
}

// checkFlood sends four times what a rate allows in a second, and fails if more
// than that rate gets through. On a computer that is too busy for a flood it
// tries again.
func (l *lab) checkFlood(t *testing.T, sources []netip.Addr, server netip.Addr, rate uint64) {
	t.Helper()
	flood := 4 * rate
	var took time.Duration
	for range 10 {
		before, began := l.slowPackets(t), time.Now()
		l.flood(t, sources, server, int(flood))
		took = time.Since(began)
		allowed := rate + uint64(took.Seconds()*float64(rate))
		if allowed > flood*3/4 {
			time.Sleep(2 * time.Second) // the burst fills up again
			continue
		}
		if got := l.slowPackets(t) - before; got > allowed+allowed/10 || got < rate/2 {
			t.Errorf("%d of %d SYNs reach %s, want at most about %d", got, flood, slowName, allowed)
		}
		return
	}
	t.Fatalf("sending took %v, ten times: too slow to be a flood", took)
}

// slowPackets counts what the router's kernel put into slow0 or dropped there.
func (l *lab) slowPackets(t *testing.T) (n uint64) {
	t.Helper()
	l.helper.do(t, func() error {
		dev, err := netlink.LinkByName(slowName)
		if err != nil {
			return err
		}
		n = dev.Attrs().Statistics.TxPackets + dev.Attrs().Statistics.TxDropped
		return nil
	})
	return n
}

// flood sends SYNs with the machine's hardware address and any sources in turn.
func (l *lab) flood(t *testing.T, sources []netip.Addr, dst netip.Addr, count int) {
	t.Helper()
	l.withLink(t, func(fd int, link unix.SockaddrLinklayer) error {
		typ := []byte{unix.ETH_P_IP >> 8, unix.ETH_P_IP & 0xff}
		if dst.Is6() {
			typ = []byte{unix.ETH_P_IPV6 >> 8, unix.ETH_P_IPV6 & 0xff}
		}
		header := append(append(routerMAC(), machineMAC()...), typ...)
		segment := make([]byte, 20)
		segment[12], segment[13], segment[3] = 5<<4, flagSYN, 81
		var frames [][]byte // made beforehand: a flood has to be fast
		for i := range 1000 {
			src := sources[i%len(sources)]
			segment[0], segment[1] = byte(i>>8), byte(i)
			putChecksum(segment, 16, src, dst, protoTCP)
			frames = append(frames, append(slices.Clip(header), buildIP(src, dst, protoTCP, segment)...))
		}
		for i := range count {
			if err := unix.Sendto(fd, frames[i%len(frames)], 0, &link); err != nil && !errors.Is(err, unix.ENOBUFS) {
				return err
			}
		}
		return nil
	})
}

// TestStraySegment: what belongs to no connection is looked at twice, by way of the
// daemon, and then reset; most of many at once are reset without that. A reset of
// none is dropped.
func TestStraySegment(t *testing.T) {
	l := newLab(t)
	l.attach(t, &fakeHandler{})
	l.settledState(t) // of IPv6: it sends some packets of its own at first
	both(t, func(t *testing.T, server, container netip.Addr) {
		const ack = 77
		before := l.slowPackets(t)
		answer := l.segment(t, container, server, flagACK, ack)
		if answer.flags != flagRST || answer.seq != ack {
			t.Errorf("answer: %+v, want a reset of %d", answer, ack)
		}
		if l.slowPackets(t) == before {
			t.Error("the daemon was not asked")
		}
		if answer := l.segment(t, container, server, flagRST|flagACK, ack); answer != (tcpHeader{}) {
			t.Errorf("a reset is answered: %+v", answer)
		}
		before = l.slowPackets(t)
		const many = 20 * strayRate
		for range many {
			if answer := l.segment(t, container, server, flagACK, ack); answer.flags != flagRST {
				t.Fatalf("answer: %+v, want a reset", answer)
			}
		}
		if n := l.slowPackets(t) - before; n > many/2 {
			t.Errorf("the daemon was asked %d times of %d", n, many)
		}
	})
}

// segment sends one without data as the machine would, and returns the answer, empty
// if none comes within a second.
func (l *lab) segment(t *testing.T, src, dst netip.Addr, flags byte, ack uint32) (answer tcpHeader) {
	t.Helper()
	const srcPort, dstPort = 4000, 80
	b := make([]byte, 20)
	binary.BigEndian.PutUint16(b, srcPort)
	binary.BigEndian.PutUint16(b[2:], dstPort)
	binary.BigEndian.PutUint32(b[8:], ack)
	b[12], b[13] = 5<<4, flags
	putChecksum(b, 16, src, dst, protoTCP)
	typ := uint16(unix.ETH_P_IP)
	if src.Is6() {
		typ = unix.ETH_P_IPV6
	}
	frame := append(append(append(routerMAC(), machineMAC()...), byte(typ>>8), byte(typ)), buildIP(src, dst, protoTCP, b)...)
	l.withLink(t, func(fd int, link unix.SockaddrLinklayer) error {
		link.Protocol = typ>>8 | typ<<8
		if err := errors.Join(unix.Bind(fd, &link), unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 1})); err != nil {
			return err
		}
		if err := unix.Sendto(fd, frame, 0, &link); err != nil {
			return err
		}
		for got := make([]byte, 2000); ; {
			n, err := unix.Read(fd, got)
			if err == unix.EAGAIN {
				return nil
			}
			if err != nil {
				return err
			}
			p, ok := parsePacket(got[14:n])
			if !ok || p.proto != protoTCP || p.src != dst {
				continue
			}
			if answer, ok = parseTCP(p.payload); ok && answer.dstPort == srcPort {
				answer.srcPort, answer.dstPort = 0, 0
				return nil
			}
		}
	})
	return answer
}

// TestNoListenerNoLoop: without listeners a datagram is dropped, not routed back.
func TestNoListenerNoLoop(t *testing.T) {
	l := newLabWith(t, "bare")
	both(t, func(t *testing.T, server, _ netip.Addr) {
		count := l.countOnLink(t, 4243)
		conn, err := l.dial("udp", netip.AddrPortFrom(server, 4243), time.Second)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		if _, err := conn.Write([]byte("once")); err != nil {
			t.Error(err)
		}
		if n := count(); n != 1 {
			t.Errorf("the datagram crossed the link %d times, want once", n)
		}
		// The router's own kernel must not answer either.
		gateway, err := l.dial("udp", netip.AddrPortFrom(portolan.DefaultLink().Gateway().For(server), 53), time.Second)
		if err != nil {
			t.Fatal(err)
		}
		defer gateway.Close()
		if _, err := gateway.Write([]byte("?")); err != nil {
			t.Error(err)
		}
		_ = gateway.SetReadDeadline(time.Now().Add(300 * time.Millisecond))
		if _, err := gateway.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("datagram to the gateway: %v, want silence", err)
		}
	})
}

// TestErrorsReachDials: what the machine answers to dialled sockets by ICMP.
func TestErrorsReachDials(t *testing.T) {
	l := newLab(t)
	d := l.attach(t, &fakeHandler{})
	both(t, func(t *testing.T, server, container netip.Addr) {
		client := client4
		if server.Is6() {
			client = client6
		}
		for _, src := range []netip.Addr{client, {}} {
			conn, err := d.DialUDP(t.Context(), netip.AddrPortFrom(src, 0), netip.AddrPortFrom(container, 9))
			if err != nil {
				t.Fatal(err)
			}
			if _, err := conn.Write([]byte("anybody?")); err != nil {
				t.Error(err)
			}
			_ = conn.SetReadDeadline(time.Now().Add(5 * time.Second))
			if _, err := conn.Read(make([]byte, 1)); !errors.Is(err, unix.ECONNREFUSED) {
				t.Errorf("datagram to a closed port from %v: %v, want refused", src, err)
			}
			_ = conn.Close()
		}
	})
}

// TestPacketTooBig: a network of the machine with a smaller MTU than usual.
func TestPacketTooBig(t *testing.T) {
	l := newLab(t)
	d := l.attach(t, &fakeHandler{})
	l.machine.do(t, func() error {
		dev, err := netlink.LinkByName("c0")
		if err != nil {
			return err
		}
		return netlink.LinkSetMTU(dev, 1280)
	})
	addr := netip.AddrPortFrom(container6, 5300)
	seen := l.echoFrom(t, addr)
	payload := make([]byte, 1400)
	flow := portolan.Flow{Proto: portolan.UDP, Src: addr, Dst: netip.AddrPortFrom(server6, 53)}
	eventually(t, "a reply of 1400 bytes arrives", func() bool {
		if err := d.ReplyUDP(flow, payload); err != nil && !errors.Is(err, unix.EMSGSIZE) {
			t.Fatal(err)
		}
		select {
		case from := <-seen:
			return from == flow.Dst
		case <-time.After(100 * time.Millisecond):
			return false
		}
	})
}
