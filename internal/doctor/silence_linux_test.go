package doctor

import (
	"context"
	"net"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/portolan-net/portolan/internal/profile"
)

// A target that does not answer the host uses up the host's time, not the machine's.
func TestOutboundBehindSilence(t *testing.T) {
	o := options(t)
	o.Target, o.Status = silent(t), running
	o.ProbeOutbound = func(ctx context.Context, _ profile.Profile, _ string) (string, error) { return "reached", ctx.Err() }
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	findings := outboundCheck(ctx, o)
	if got := find(t, findings, "outbound, host"); got.Result != Warn {
		t.Errorf("the host: %+v", got)
	}
	if got := find(t, findings, "outbound, machine"); got.Result != OK {
		t.Errorf("the machine: %+v", got)
	}
}

// silent is an address that drops SYNs: a listener whose backlog is full.
func silent(t *testing.T) string {
	t.Helper()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Close(fd) })
	if err := unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		t.Fatal(err)
	}
	if err := unix.Listen(fd, 0); err != nil {
		t.Fatal(err)
	}
	name, err := unix.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	addr := &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: name.(*unix.SockaddrInet4).Port}
	conn, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", addr.String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return addr.String()
}
