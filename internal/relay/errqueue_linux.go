package relay

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"syscall"

	"golang.org/x/sys/unix"
)

// queuedError is one ICMP error from a socket's error queue (ip(7), IP_RECVERR).
type queuedError struct {
	to      netip.AddrPort // where the datagram went
	payload []byte         // what the error quotes of it
	reason  syscall.Errno  // 0: nothing to tell the sender
}

// queueErrors makes the socket keep ICMP errors with the address they concern.
func queueErrors(fd int, six bool) error {
	level, option := unix.IPPROTO_IP, unix.IP_RECVERR
	if six {
		level, option = unix.IPPROTO_IPV6, unix.IPV6_RECVERR
	}
	if err := unix.SetsockoptInt(fd, level, option, 1); err != nil {
		return fmt.Errorf("set IP_RECVERR: %w", err)
	}
	return nil
}

// nextError takes the next error from the queue; false when it is empty.
func nextError(fd int, buf []byte) (queuedError, bool) {
	var control [512]byte
	for {
		n, cn, _, from, err := unix.Recvmsg(fd, buf, control[:], unix.MSG_ERRQUEUE|unix.MSG_DONTWAIT)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return queuedError{}, false
		}
		return queuedError{to: addrPort(from), payload: buf[:n], reason: parseReason(control[:cn])}, true
	}
}

// parseReason finds the errno in the control messages of an error. Errors of
// the host itself are left out, the send call has returned them; and so is
// EMSGSIZE, from which the kernel has learnt to fragment.
func parseReason(control []byte) syscall.Errno {
	messages, err := unix.ParseSocketControlMessage(control)
	if err != nil {
		return 0
	}
	for _, m := range messages {
		v4 := m.Header.Level == unix.IPPROTO_IP && m.Header.Type == unix.IP_RECVERR
		v6 := m.Header.Level == unix.IPPROTO_IPV6 && m.Header.Type == unix.IPV6_RECVERR
		if !v4 && !v6 || len(m.Data) < 5 {
			continue
		}
		// struct sock_extended_err: u32 errno, u8 origin, ...
		errno := syscall.Errno(binary.NativeEndian.Uint32(m.Data))
		origin := m.Data[4]
		if (origin == unix.SO_EE_ORIGIN_ICMP || origin == unix.SO_EE_ORIGIN_ICMP6) && errno != unix.EMSGSIZE {
			return errno
		}
	}
	return 0
}

// sockaddr is a for system calls.
func sockaddr(a netip.AddrPort) unix.Sockaddr {
	if a.Addr().Is4() {
		return &unix.SockaddrInet4{Addr: a.Addr().As4(), Port: int(a.Port())}
	}
	return &unix.SockaddrInet6{Addr: a.Addr().As16(), Port: int(a.Port())}
}

// addrPort is the opposite of sockaddr; the zero value for other families.
// Zones are dropped: link-local peers are not carried.
func addrPort(s unix.Sockaddr) netip.AddrPort {
	switch s := s.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrPortFrom(netip.AddrFrom4(s.Addr), uint16(s.Port))
	case *unix.SockaddrInet6:
		return netip.AddrPortFrom(netip.AddrFrom16(s.Addr), uint16(s.Port))
	}
	return netip.AddrPort{}
}
