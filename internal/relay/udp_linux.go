package relay

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"

	"golang.org/x/sys/unix"

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
	opened, err := lc.ListenPacket(context.Background(), network, "") // no name to wait for
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

// send sends one datagram without blocking.
func (a *association) send(peer netip.AddrPort, payload []byte) error {
	raw, err := a.conn.SyscallConn()
	if err != nil {
		return err
	}
	var sendErr error
	if err := raw.Control(func(fd uintptr) { sendErr = sendTo(int(fd), peer, payload) }); err != nil {
		return net.ErrClosed
	}
	if sendErr != nil {
		return fmt.Errorf("send to %s: %w", peer, sendErr)
	}
	return nil
}

// sendTo sends one datagram. A socket with an error queue also reports the
// error of an earlier datagram here, once; so an error counts only when it
// comes again. A datagram that is too long or finds no room is lost.
func sendTo(fd int, to netip.AddrPort, payload []byte) error {
	const attempts = 3 // errors of two other peers may be pending
	var err error
	for range attempts {
		_, err = retry(func() (int, error) { return 0, unix.Sendto(fd, payload, unix.MSG_DONTWAIT, sockaddr(to)) })
		switch {
		case err == nil, err == unix.EAGAIN, err == unix.ENOBUFS, err == unix.EMSGSIZE:
			return nil
		}
	}
	return err
}

// read passes on what arrives on a's socket until it is closed.
func (u *UDP) read(a *association) {
	raw, err := a.conn.SyscallConn()
	if err != nil {
		return
	}
	_ = raw.Read(func(fd uintptr) bool { // its error says that the socket is closed
		buf := buffers.Get().(*[bufferSize]byte)
		defer buffers.Put(buf)
		return !u.readReady(a, int(fd), buf[:])
	})
}

// readReady takes everything that is there now; false means that the
// association has ended.
func (u *UDP) readReady(a *association, fd int, buf []byte) bool {
	for !a.ended.Load() {
		n, from, err := unix.Recvfrom(fd, buf, unix.MSG_DONTWAIT)
		switch {
		case err == nil:
			if peer := addrPort(from); u.arrived(a, peer.Addr()) {
				u.cfg.Reply(a.key.source, peer, buf[:n])
			}
		case errors.Is(err, unix.EINTR):
		case errors.Is(err, unix.EBADF), errors.Is(err, unix.ENOTSOCK):
			return false
		default: // EAGAIN, or the error of one peer; the queue says whose
			if !u.readErrors(a, fd, buf) && err == unix.EAGAIN {
				return true
			}
		}
	}
	return false
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
