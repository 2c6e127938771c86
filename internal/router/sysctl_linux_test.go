package router

import (
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/portolan-net/portolan/internal/socket"
)

// Sockets of the router do not pace, whatever the host's default is.
func TestLinkIsNotPaced(t *testing.T) {
	l := newLab(t)
	d := l.attach(t, &fakeHandler{})
	both(t, func(t *testing.T, _, container netip.Addr) {
		l.listen(t, container, 8080)
		conn, err := d.DialTCP(t.Context(), netip.Addr{}, netip.AddrPortFrom(container, 8080))
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = conn.Close() }()
		var name string
		var nameErr error
		err = conn.(*socket.TCP).Control(func(fd int) {
			name, nameErr = unix.GetsockoptString(fd, unix.IPPROTO_TCP, unix.TCP_CONGESTION)
		})
		if err != nil || nameErr != nil || name != "reno" {
			t.Errorf("congestion control is %s, %v, %v; want reno", name, err, nameErr)
		}
	})
}
