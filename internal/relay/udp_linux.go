package relay

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/portolan-net/portolan/internal/mmsg"
	"github.com/portolan-net/portolan/internal/poll"
	"github.com/portolan-net/portolan/internal/socket"
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

// udpSocket is a socket of the host that a loop watches. Go's poller would wake
// for each datagram that has left, too.
type udpSocket struct {
	port  uint16
	table *UDP
	of    *association
	loop  *poll.Loop
	id    int32

	fd  int // open while it has users
	msg mmsg.Socket

	mu    sync.Mutex // guards users
	users int        // the loop, and whoever sends
}

// listenUDP opens an unbound-address socket on a port of the kernel's choice,
// out of those that ports leaves it, that learns which of its peers refused
// (ip(7), IP_RECVERR).
func listenUDP(six bool, ports *system.Outgoing) (*udpSocket, error) {
	family, wildcard := unix.AF_INET, netip.IPv4Unspecified()
	if six {
		family, wildcard = unix.AF_INET6, netip.IPv6Unspecified()
	}
	fd, err := unix.Socket(family, unix.SOCK_DGRAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("socket: %w", err)
	}
	ports.Apply(fd)
	local, err := bindUDP(fd, six, netip.AddrPortFrom(wildcard, 0))
	if err != nil {
		_ = unix.Close(fd)
		return nil, err
	}
	return &udpSocket{fd: fd, port: local.Port(), users: 1}, nil
}

// bindUDP prepares a socket and returns the address that it got.
func bindUDP(fd int, six bool, to netip.AddrPort) (local netip.AddrPort, err error) {
	if six {
		err = unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, 1)
	}
	if err = errors.Join(err, queueErrors(fd, six)); err != nil {
		return local, err
	}
	_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, udpBuffer) // capped, never refused
	_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUF, udpBuffer)
	if err := unix.Bind(fd, socket.Sockaddr(to)); err != nil {
		return local, fmt.Errorf("bind: %w", err)
	}
	return socket.LocalAddr(fd)
}

// start lets a loop tell what a's socket receives, until stop. Whatever comes of
// it, the socket need not be closed by the caller.
func (s *udpSocket) start(u *UDP, a *association) error {
	s.table, s.of, s.msg.Offload = u, a, u.cfg.Offload
	if s.loop = poll.Next(); s.loop == nil {
		s.release()
		return unix.EMFILE
	}
	s.id = s.loop.Add(s)
	if err := s.loop.Watch(s.id, 0, s.fd, unix.EPOLLIN); err != nil {
		s.loop.Remove(s.id)
		s.release()
		return err
	}
	return nil
}

// stop makes the loop give the socket up.
func (s *udpSocket) stop() {
	s.loop.Do(func() {
		s.loop.Unwatch(s.fd)
		s.loop.Remove(s.id)
		s.release()
		s.table.running.Done()
	})
}

// use keeps fd open until release, and fails when it is closed.
func (s *udpSocket) use() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.users == 0 {
		return false
	}
	s.users++
	return true
}

func (s *udpSocket) release() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.users--; s.users == 0 {
		_ = unix.Close(s.fd) // a datagram socket has nothing left to say
	}
}

// Ready implements poll.Watcher.
func (s *udpSocket) Ready(int32, uint32) {
	b := mmsg.Borrow()
	defer mmsg.Return(b)
	s.table.readReady(s.of, uintptr(s.fd), b)
}

// sendAttempts of a datagram: an error may be that of an earlier one to another
// peer, so it counts only when it comes again.
const sendAttempts = 3

// send sends datagrams without blocking, and returns the first error of one.
func (u *UDP) send(a *association, peer netip.AddrPort, payloads [][]byte) error {
	if !a.socket.use() {
		return net.ErrClosed
	}
	defer a.socket.release()
	if err := u.sendAll(a, uintptr(a.socket.fd), peer, payloads); err != nil {
		return fmt.Errorf("send to %s: %w", peer, err)
	}
	return nil
}

// sendAll sends each datagram or learns that it can't be sent. A datagram that
// is too long or finds no room is lost.
func (u *UDP) sendAll(a *association, fd uintptr, peer netip.AddrPort, payloads [][]byte) (first error) {
	attempts := 0
	for len(payloads) > 0 {
		n, err := a.socket.msg.Send(fd, peer, nil, payloads)
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

// readReady takes what is there now, a few batches at a time: the loop tells of
// what is left.
func (u *UDP) readReady(a *association, fd uintptr, b *mmsg.Batch) {
	for range turn {
		if a.ended.Load() {
			return
		}
		n, err := a.socket.msg.Receive(fd, b)
		switch {
		case err == nil:
			u.pass(a, b, n)
			if !b.Full() {
				return
			}
		default: // EAGAIN, or the error of one peer; the queue says whose
			if !u.readErrors(a, int(fd), b.Buffer()) && err == unix.EAGAIN {
				return
			}
		}
	}
}

// pass gives the n datagrams of b to Reply, those of one peer that follow each
// other together.
func (u *UDP) pass(a *association, b *mmsg.Batch, n int) {
	payloads, peer := make([][]byte, 0, mmsg.MaxBorrowed), netip.AddrPort{}
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
