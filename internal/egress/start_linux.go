package egress

import (
	"context"
	"fmt"
	"net/netip"

	"github.com/portolan-net/portolan/internal/datapath"
	"github.com/portolan-net/portolan/internal/portolan"
)

var _ datapath.Opener = (*Egress)(nil)

// StartTCP is OpenTCP that does not wait. A far side on this computer has mostly
// answered when connect(2) returns, and done is called at once.
func (e *Egress) StartTCP(ctx context.Context, flow portolan.Flow, done func(datapath.Endpoint, error)) {
	dialer, to, ok := e.plain(flow)
	if !ok {
		go func() { done(e.OpenTCP(ctx, flow)) }()
		return
	}
	place, ok := e.dials.Enter(flow.Src.Addr())
	if !ok {
		done(nil, fmt.Errorf("dial %s: %w", to, errBusy))
		return
	}
	attempt := dialer.begin(to)
	outcome := func() (datapath.Endpoint, error) {
		conn, err := attempt.wait(ctx)
		e.dials.Leave(place)
		endpoint, err := e.dialled(flow, conn, err)
		if to == flow.Dst {
			return endpoint, err
		}
		return e.orLoopback6(ctx, flow, endpoint, err)
	}
	if attempt.Stands() {
		done(outcome())
		return
	}
	go func() { done(outcome()) }()
}

// plain returns where flow is dialled, if it is neither served here nor taken by a
// proxy, and by whom.
func (e *Egress) plain(flow portolan.Flow) (dialer systemDialer, to netip.AddrPort, ok bool) {
	dialer, ok = e.cfg.Dialer.(systemDialer)
	v, _ := e.decide(flow) // OpenTCP says what is wrong
	switch {
	case v == host:
		return dialer, netip.AddrPortFrom(loopback4, flow.Dst.Port()), ok
	case v == direct && (e.cfg.Proxies == nil || !e.cfg.Proxies.MayOpen(flow)):
		return dialer, flow.Dst, ok
	}
	return dialer, to, false
}
