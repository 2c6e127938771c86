package publish

import (
	"net"
	"time"

	"golang.org/x/sys/unix"

	"github.com/portolan-net/portolan/internal/datapath"
)

// carried tells what a connection has received and sent, by TCP_INFO
// (bytes_received and bytes_acked of linux/tcp.h); nothing of one that is closed.
func carried(conn datapath.Conn) (received, sent int64) {
	tcp, ok := conn.(*net.TCPConn)
	if !ok {
		return 0, 0
	}
	raw, err := tcp.SyscallConn()
	if err != nil {
		return 0, 0
	}
	_ = raw.Control(func(fd uintptr) {
		if info, err := unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO); err == nil {
			received, sent = int64(info.Bytes_received), int64(info.Bytes_acked)
		}
	})
	return received, sent
}

// limitUnacknowledged sets TCP_USER_TIMEOUT (RFC 5482): keep-alive probes don't
// run while data waits for an acknowledgement.
func limitUnacknowledged(c *net.TCPConn, limit time.Duration) {
	raw, err := c.SyscallConn()
	if err != nil {
		return // closed meanwhile
	}
	_ = raw.Control(func(fd uintptr) {
		_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(limit.Milliseconds()))
	})
}
