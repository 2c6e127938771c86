package egress

import (
	"context"
	"errors"
	"fmt"
	"net/netip"

	"github.com/portolan-net/portolan/internal/datapath"
	"github.com/portolan-net/portolan/internal/relay"
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
	return attempt{d, dst, socket.Begin(dst, func(fd int) {
		d.ports.Apply(fd)
		if dst.Addr().IsLoopback() {
			socket.Unpace(fd)
		}
	})}
}

// attempt is a dial of a systemDialer.
type attempt struct {
	dialer systemDialer
	dst    netip.AddrPort
	*socket.Attempt
}

// wait begins anew where the host loses the dial's own address: the kernel would try
// from there for two minutes, and is now asked which other way there is, if any.
func (a attempt) wait(ctx context.Context) (datapath.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	conn, err := a.waitOnce(ctx)
	for errors.Is(err, errAddressLost) {
		a = a.dialer.begin(a.dst)
		conn, err = a.waitOnce(ctx)
	}
	if err != nil {
		return nil, fmt.Errorf("dial %s: %w", a.dst, err)
	}
	return conn, nil
}

var errAddressLost = errors.New("the host has lost its own address")

// waitOnce waits as long as the host has the attempt's own address.
func (a attempt) waitOnce(ctx context.Context) (*socket.TCP, error) {
	if local := a.Local(); local.IsValid() {
		waiting, lost := context.WithCancelCause(ctx)
		defer lost(nil)
		defer relay.EndWith(func() { lost(errAddressLost) }, local.Addr())()
		ctx = waiting
	}
	return a.Wait(ctx)
}
