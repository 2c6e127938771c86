package publish

import (
	"errors"
	"net"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/portolan-net/portolan/internal/datapath"
	"github.com/portolan-net/portolan/internal/socket"
)

// carried tells what a connection has received and sent, by TCP_INFO
// (bytes_received and bytes_acked of linux/tcp.h); nothing of one that is closed.
func carried(conn datapath.Conn) (received, sent int64) {
	onSocket(conn, func(fd int) {
		if info, err := unix.GetsockoptTCPInfo(fd, unix.IPPROTO_TCP, unix.TCP_INFO); err == nil {
			received, sent = int64(info.Bytes_received), int64(info.Bytes_acked)
		}
	})
	return received, sent
}

// probe makes the kernel find out soon whether the peer is still there.
// TCP_USER_TIMEOUT (RFC 5482) belongs to it: keep-alive probes don't run while
// data waits for an acknowledgement.
func probe(conn datapath.Conn) {
	onSocket(conn, func(fd int) {
		for _, option := range [...]struct{ level, name, value int }{
			{unix.IPPROTO_TCP, unix.TCP_KEEPIDLE, int(probeIdle.Seconds())},
			{unix.IPPROTO_TCP, unix.TCP_KEEPINTVL, int(probeInterval.Seconds())},
			{unix.IPPROTO_TCP, unix.TCP_KEEPCNT, probeCount},
			{unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(probeLimit.Milliseconds())},
			{unix.SOL_SOCKET, unix.SO_KEEPALIVE, 1},
		} {
			_ = unix.SetsockoptInt(fd, option.level, option.name, option.value) // refused: the usual time-outs hold
		}
	})
}

// onSocket calls f with conn's descriptor, unless it is closed or has none.
func onSocket(conn datapath.Conn, f func(fd int)) {
	switch c := conn.(type) {
	case *socket.TCP:
		_ = c.Control(f)
	case *net.TCPConn:
		if raw, err := c.SyscallConn(); err == nil {
			_ = raw.Control(func(fd uintptr) { f(int(fd)) })
		}
	}
}

// bindAnywhere lets a socket be bound to an address that the host does not have
// (IP_FREEBIND of ip(7), which counts for IPv6 as well). It is net.ListenConfig's
// Control.
func bindAnywhere(_, _ string, c syscall.RawConn) (err error) {
	controlErr := c.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_FREEBIND, 1) })
	return errors.Join(controlErr, err)
}
