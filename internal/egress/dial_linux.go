package egress

import (
	"context"
	"fmt"
	"net/netip"

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
	return d.begin(dst).wait(ctx)
}

// begin is DialTCP that does not wait.
func (d systemDialer) begin(dst netip.AddrPort) attempt {
	return attempt{dst, socket.Begin(dst, func(fd int) {
		d.ports.Apply(fd)
		if dst.Addr().IsLoopback() {
			socket.Unpace(fd)
		}
	})}
}

// attempt is a dial of a systemDialer.
type attempt struct {
	dst netip.AddrPort
	*socket.Attempt
}

func (a attempt) wait(ctx context.Context) (datapath.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	conn, err := a.Wait(ctx)
	if err != nil {
		return nil, fmt.Errorf("dial %s: %w", a.dst, err)
	}
	return conn, nil
}
