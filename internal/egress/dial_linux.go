package egress

import (
	"context"
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"

	"github.com/portolan-net/portolan/internal/datapath"
	"github.com/portolan-net/portolan/internal/socket"
	"github.com/portolan-net/portolan/internal/system"
)

// systemDialer dials with ordinary sockets of this process: no bind address, no
// mark, so routes, VPN and firewall treat the flow as this process's own.
type systemDialer struct{ ports *system.Outgoing }

func newSystemDialer(ports *system.Outgoing) systemDialer { return systemDialer{ports} }

// DialTCP implements Dialer. The connection is a *socket.TCP.
func (d systemDialer) DialTCP(ctx context.Context, dst netip.AddrPort) (datapath.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	conn, err := socket.Dial(ctx, dst, func(fd int) {
		d.ports.Apply(fd)
		if dst.Addr().IsLoopback() {
			tuneLoopback(fd)
		}
	})
	if err != nil {
		return nil, fmt.Errorf("dial %s: %w", dst, err)
	}
	return conn, nil
}

// tuneLoopback gives connections to the host's own loopback congestion control
// without pacing: BBR, where it is the host's default, sets a timer for each
// segment and halves their speed. It must happen before the connection stands,
// because the kernel never ends pacing that has begun. Others keep the host's
// choice, as connections of any program would.
func tuneLoopback(fd int) {
	_ = unix.SetsockoptString(fd, unix.IPPROTO_TCP, unix.TCP_CONGESTION, "reno") // an optimisation
}
