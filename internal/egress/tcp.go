package egress

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"syscall"
	"time"

	"github.com/portolan-net/portolan/internal/datapath"
	"github.com/portolan-net/portolan/internal/portolan"
	"github.com/portolan-net/portolan/internal/relay"
	"github.com/portolan-net/portolan/internal/scarce"
)

// OpenTCP dials the far side as decide says.
func (e *Egress) OpenTCP(ctx context.Context, flow portolan.Flow) (datapath.Endpoint, error) {
	v, err := e.decide(flow)
	switch v {
	case resolver:
		return resolverEndpoint{e.cfg.DNS}, nil
	case proxied:
		if e.cfg.Proxies != nil {
			return proxyEndpoint{e.cfg.Proxies, flow}, nil
		}
		err = syscall.ECONNREFUSED
	case direct:
		return e.openDirect(ctx, flow)
	case host:
		return e.openHost(ctx, flow)
	}
	return nil, fmt.Errorf("open %s: %w", flow, err)
}

// openHost dials 127.0.0.1, then ::1: most servers listen on the first, some
// (Node's default, for one) only on the second. When neither serves, the first
// error is the one to show, for the second may only say that there is no IPv6.
func (e *Egress) openHost(ctx context.Context, flow portolan.Flow) (datapath.Endpoint, error) {
	endpoint, err := e.open(ctx, flow, netip.AddrPortFrom(loopback4, flow.Dst.Port()))
	return e.orLoopback6(ctx, flow, endpoint, err)
}

// orLoopback6 is openHost once 127.0.0.1 has had its chance.
func (e *Egress) orLoopback6(ctx context.Context, flow portolan.Flow, endpoint datapath.Endpoint, err error) (datapath.Endpoint, error) {
	if err == nil || datapath.Classify(err) == datapath.Silent {
		return endpoint, err
	}
	if endpoint, err6 := e.open(ctx, flow, netip.AddrPortFrom(loopback6, flow.Dst.Port())); err6 == nil {
		return endpoint, nil
	}
	return nil, err
}

// open dials to on behalf of flow.
func (e *Egress) open(ctx context.Context, flow portolan.Flow, to netip.AddrPort) (datapath.Endpoint, error) {
	place, ok := e.dials.Enter(flow.Src.Addr())
	if !ok {
		return nil, fmt.Errorf("dial %s: %w", to, errBusy)
	}
	defer e.dials.Leave(place)
	conn, err := e.cfg.Dialer.DialTCP(ctx, to)
	return e.dialled(flow, conn, err)
}

// dialled is what came of a dial.
func (e *Egress) dialled(flow portolan.Flow, conn datapath.Conn, err error) (datapath.Endpoint, error) {
	if scarce.Exhausted(err) && e.short.Now() {
		e.cfg.Log.Warn("connections are refused: this computer is short of what a socket needs", "flow", flow, "error", err)
	}
	if errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE) {
		return goneEndpoint{}, nil
	}
	if err != nil {
		return nil, err
	}
	return &farEndpoint{Conn: conn, egress: e, flow: flow}, nil
}

// farEndpoint is an established connection to the far side.
type farEndpoint struct {
	datapath.Conn
	egress *Egress
	flow   portolan.Flow
}

// Serve relays until the flow has ended.
func (f *farEndpoint) Serve(ctx context.Context, conn datapath.Conn) {
	ended := make(chan struct{})
	f.Start(ctx, conn, func() { close(ended) })
	<-ended
}

// Start implements datapath.Starter.
func (f *farEndpoint) Start(ctx context.Context, conn datapath.Conn, done func()) {
	began := time.Now()
	relay.Start(ctx, conn, f.Conn, func(stats relay.Stats) {
		f.egress.cfg.Log.Debug("tcp flow ended", "flow", f.flow,
			"sent", stats.AToB, "received", stats.BToA, "duration", time.Since(began))
		done()
	})
}

// Close ends the far side with an RST: it was connected for a machine that went
// away, and must not take that for a polite end.
func (f *farEndpoint) Close() error {
	datapath.Reset(f.Conn)
	return nil
}

// goneEndpoint is a far side that accepted the connection and reset it before
// the dial was told. Linux then ends the dial with ECONNRESET, or EPIPE after a
// FIN, and with ECONNREFUSED only before the handshake (tcp_reset in
// net/ipv4/tcp_input.c). The machine is shown the same: a connection, and its
// reset.
type goneEndpoint struct{}

// Serve resets conn.
func (goneEndpoint) Serve(_ context.Context, conn datapath.Conn) {
	datapath.Reset(conn)
}

func (goneEndpoint) Close() error { return nil }

// resolverEndpoint is DNS over TCP.
type resolverEndpoint struct{ dns DNSService }

func (r resolverEndpoint) Serve(ctx context.Context, conn datapath.Conn) {
	r.dns.ServeTCP(ctx, conn)
}

func (resolverEndpoint) Close() error { return nil }

// dialTimeout lies just above Linux's own 127 s (tcp_syn_retries 6), so that it
// is the kernel's error that ends a dial there.
const dialTimeout = 130 * time.Second

// dialBounds hold for the dials under way. Each holds a descriptor for up to
// 127 s when nobody answers, so one container that scans a network must not take
// them all, nor one that forges the addresses of its network.
var dialBounds = scarce.Bounds{All: 4096, Network: 2048, Source: 1024}

// errBusy is silence for the machine: its own next SYN, a second later, tries
// again.
var errBusy = errors.Join(errors.New("too many dials under way"), context.DeadlineExceeded)
