package egress

import (
	"net"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/portolan-net/portolan/internal/socket"
)

// Loopback is not paced, whatever the host's default is.
func TestLoopbackIsNotPaced(t *testing.T) {
	for network, addr := range map[string]string{"tcp4": "127.0.0.1:0", "tcp6": "[::1]:0"} {
		l, err := net.Listen(network, addr)
		must(t, err)
		defer func() { _ = l.Close() }()
		conn, err := newSystemDialer(nil).DialTCP(t.Context(), l.Addr().(*net.TCPAddr).AddrPort())
		must(t, err)
		defer func() { _ = conn.Close() }()
		var name string
		var nameErr error
		must(t, conn.(*socket.TCP).Control(func(fd int) {
			name, nameErr = unix.GetsockoptString(fd, unix.IPPROTO_TCP, unix.TCP_CONGESTION)
		}))
		must(t, nameErr)
		if name != "reno" {
			t.Errorf("congestion control to %s is %s, want reno", l.Addr(), name)
		}
	}
}
