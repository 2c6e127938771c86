package dns

import (
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// hearErrors makes a UDP socket hear of every ICMP error. Without it Linux tells
// of closed ports only, and a resolver whose network is gone would be waited for
// (ip(7), IP_RECVERR). It is a net.Dialer's Control.
func hearErrors(network, _ string, conn syscall.RawConn) error {
	level, option := unix.IPPROTO_IP, unix.IP_RECVERR
	switch {
	case !strings.HasPrefix(network, "udp"):
		return nil
	case network == "udp6":
		level, option = unix.IPPROTO_IPV6, unix.IPV6_RECVERR
	}
	var err error
	if ctlErr := conn.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), level, option, 1) }); ctlErr != nil {
		return ctlErr
	}
	return err
}
