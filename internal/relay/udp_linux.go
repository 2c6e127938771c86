package relay

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"

	"golang.org/x/sys/unix"

	"github.com/portolan-net/portolan/internal/mmsg"
	"github.com/portolan-net/portolan/internal/system"
)

// defaultMax leaves half of the descriptors to TCP, and stays well below the
// 28,232 ephemeral ports of a default Linux (net.ipv4.ip_local_port_range).
func defaultMax() int {
	const most, least = 16384, 64
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return least
	}
	return int(max(least, min(most, limit.Cur/2)))
}

// listenUDP opens an unbound-address socket on a port of the kernel's choice,
// out of those that ports leaves it, that learns which of its peers refused
// (ip(7), IP_RECVERR).
func listenUDP(six bool, ports *system.Outgoing) (*net.UDPConn, error) {
	network := "udp4"
	if six {
		network = "udp6"
	}
	lc := net.ListenConfig{Control: ports.Control}
	opened, err := lc.ListenPacket(context.Background(), network, "") //nolint:forbidigo // there is no name to wait for
	if err != nil {
		return nil, err
	}
	conn := opened.(*net.UDPConn)
	raw, err := conn.SyscallConn()
	if err == nil {
		ctlErr := raw.Control(func(fd uintptr) { err = tuneUDP(int(fd), six) })
		err = errors.Join(ctlErr, err)
	}
	if err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	return conn, nil
}

func tuneUDP(fd int, six bool) error {
	if err := queueErrors(fd, six); err != nil {
		return err
	}
	// Go allows broadcasts on every datagram socket; a container's must not
	// reach the LAN, as they would not through a router.
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_BROADCAST, 0); err != nil {
		return fmt.Errorf("set SO_BROADCAST: %w", err)
	}
	_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, udpBuffer) // capped, never refused
	_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUF, udpBuffer)
	return nil
}

// sendAttempts of a datagram: an error may be that of an earlier one to another
// peer, so it counts only when it comes again.
const sendAttempts = 3

// send sends datagrams without blocking, and returns the first error of one.
func (u *UDP) send(a *association, peer netip.AddrPort, payloads [][]byte) error {
	var first error
	if err := a.raw.Control(func(fd uintptr) { first = u.sendAll(a, fd, peer, payloads) }); err != nil {
		return net.ErrClosed
	}
	if first != nil {
		return fmt.Errorf("send to %s: %w", peer, first)
	}
	return nil
}

// sendAll sends each datagram or learns that it can't be sent. A datagram that
// is too long or finds no room is lost.
func (u *UDP) sendAll(a *association, fd uintptr, peer netip.AddrPort, payloads [][]byte) (first error) {
	attempts := 0
	for len(payloads) > 0 {
		n, err := mmsg.Send(fd, peer, nil, payloads)
		if n > 0 {
			attempts = 0
		}
		payloads = payloads[n:]
		switch {
		case err == nil:
			return first
		case errors.Is(err, unix.EAGAIN), errors.Is(err, unix.ENOBUFS):
			return first // no room for the rest either
		case errors.Is(err, unix.EMSGSIZE):
		default:
			// This took the error from under the reader's eyes.
			u.drainErrors(a, int(fd))
			if attempts++; attempts < sendAttempts {
				continue
			}
			if first == nil {
				first = err
			}
		}
		attempts, payloads = 0, payloads[1:]
	}
	return first
}

// drainErrors is readErrors with memory of its own.
func (u *UDP) drainErrors(a *association, fd int) {
	buf := buffers.Get().(*[bufferSize]byte)
	defer buffers.Put(buf)
	u.readErrors(a, fd, buf[:])
}

// read passes on what arrives on a's socket until it is closed.
func (u *UDP) read(a *association) {
	_ = a.raw.Read(func(fd uintptr) bool { // its error says that the socket is closed
		b := batches.get()
		defer batches.put(b)
		return !u.readReady(a, fd, b)
	})
}

// readReady takes everything that is there now; false means that the
// association has ended.
func (u *UDP) readReady(a *association, fd uintptr, b *mmsg.Batch) bool {
	for !a.ended.Load() {
		n, err := b.Receive(fd)
		switch {
		case err == nil:
			u.pass(a, b, n)
			if n < b.Slots() {
				return true // what comes now wakes the reader again
			}
		case errors.Is(err, unix.EBADF), errors.Is(err, unix.ENOTSOCK):
			return false
		default: // EAGAIN, or the error of one peer; the queue says whose
			if !u.readErrors(a, int(fd), b.Buffer()) && err == unix.EAGAIN {
				return true
			}
		}
	}
	return false
}

// pass gives the n datagrams of b to Reply, those of one peer that follow each
// other together.
func (u *UDP) pass(a *association, b *mmsg.Batch, n int) {
	var room [maxBatch][]byte
	payloads, peer := room[:0], netip.AddrPort{}
	flush := func() {
		if len(payloads) > 0 && u.arrived(a, peer.Addr()) {
			u.cfg.Reply(a.key.source, peer, payloads...)
		}
	}
	for i := range n {
		if from := b.From(i); from != peer {
			flush()
			peer, payloads = from, payloads[:0]
		}
		payloads = append(payloads, b.Payload(i))
	}
	flush()
}

// readErrors passes on the refusals that the socket's error queue holds, and
// reports whether there were any.
func (u *UDP) readErrors(a *association, fd int, buf []byte) bool {
	any := false
	for {
		e, ok := nextError(fd, buf)
		if !ok {
			return any
		}
		any = true
		if e.reason != 0 && !a.ended.Load() {
			u.cfg.Refused(a.key.source, e.to, e.payload, e.reason)
		}
	}
}
