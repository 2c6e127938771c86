//go:build !linux

package egress

import (
	"context"
	"net"
	"net/netip"

	"github.com/portolan-net/portolan/internal/datapath"
	"github.com/portolan-net/portolan/internal/system"
)

// systemDialer dials with ordinary sockets of this process.
type systemDialer struct{ dialer net.Dialer }

func newSystemDialer(ports *system.Outgoing) systemDialer {
	d := systemDialer{dialer: net.Dialer{Timeout: dialTimeout, Control: ports.Control}}
	d.dialer.SetMultipathTCP(false)
	return d
}

// DialTCP implements Dialer. The connection is a *net.TCPConn.
func (d systemDialer) DialTCP(ctx context.Context, dst netip.AddrPort) (datapath.Conn, error) {
	conn, err := d.dialer.DialContext(ctx, "tcp", dst.String())
	if err != nil {
		return nil, err
	}
	return conn.(*net.TCPConn), nil
}
