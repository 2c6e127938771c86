package egress

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"syscall"
	"testing"
	"time"

	"github.com/portolan-net/portolan/internal/datapath"
	"github.com/portolan-net/portolan/internal/portolan"
)

// failing is a Dialer whose dials end as the kernel says.
type failing syscall.Errno

func (f failing) DialTCP(context.Context, netip.AddrPort) (datapath.Conn, error) {
	return nil, &net.OpError{Op: "dial", Net: "tcp", Err: os.NewSyscallError("connect", syscall.Errno(f))}
}

// A server that accepts and resets at once is not one that refuses.
func TestResetDuringDialIsNoRefusal(t *testing.T) {
	for _, errno := range []syscall.Errno{syscall.ECONNRESET, syscall.EPIPE} {
		e, _ := newEgress(t, func(c *Config) { c.Dialer = failing(errno) })
		endpoint, err := e.OpenTCP(t.Context(), flowTo(portolan.TCP, at(here4, 80)))
		if err != nil {
			t.Fatalf("%v: %v, want a connection", errno, err)
		}
		l, err := net.ListenTCP("tcp4", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
		must(t, err)
		defer func() { _ = l.Close() }()
		client, err := net.DialTCP("tcp4", nil, l.Addr().(*net.TCPAddr))
		must(t, err)
		defer func() { _ = client.Close() }()
		conn, err := l.AcceptTCP()
		must(t, err)
		endpoint.Serve(t.Context(), conn)
		_ = client.SetReadDeadline(time.Now().Add(5 * time.Second))
		if _, err := client.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("%v: the client reads %v, want a reset", errno, err)
		}
	}
	e, _ := newEgress(t, func(c *Config) { c.Dialer = failing(syscall.ECONNREFUSED) })
	wantRefusal(t, e, at(here4, 80), datapath.Refused)
}
