package egress

import (
	"context"
	"fmt"
	"net/netip"
	"syscall"

	"github.com/portolan-net/portolan/internal/datapath"
	"github.com/portolan-net/portolan/internal/portolan"
)

// Proxies is the way by proxies of the company: internal/proxy/server has it.
type Proxies interface {
	// ServeTCP serves a client of the forward proxy until either side has had
	// enough, and closes conn.
	ServeTCP(ctx context.Context, conn datapath.Conn, flow portolan.Flow)
	// MayOpen reports whether OpenTCP may take flow over. It must not wait.
	MayOpen(flow portolan.Flow) bool
	// OpenTCP may take a direct flow over whose SYN is held, as OpenTCP of
	// datapath.Handler does; false leaves it direct.
	OpenTCP(ctx context.Context, flow portolan.Flow) (datapath.Endpoint, bool, error)
	// Allow may refuse what no proxy carries, UDP and ICMP, with an error to
	// classify. It is asked for each datagram and must not block.
	Allow(flow portolan.Flow) error
}

// openDirect dials flow's own destination, unless a proxy is to.
func (e *Egress) openDirect(ctx context.Context, flow portolan.Flow) (datapath.Endpoint, error) {
	if e.cfg.Proxies != nil {
		if endpoint, taken, err := e.cfg.Proxies.OpenTCP(ctx, flow); taken {
			return endpoint, err
		}
	}
	return e.open(ctx, flow, flow.Dst)
}

// DialTCP connects to dst on behalf of an address of the machine, as if that
// connected itself: where it would be refused, so is this. It is how our own
// servers reach what their clients name, and leads to none of them.
func (e *Egress) DialTCP(ctx context.Context, src netip.Addr, dst netip.AddrPort) (datapath.Conn, error) {
	flow := portolan.Flow{Proto: portolan.TCP, Src: netip.AddrPortFrom(src, 0), Dst: dst}
	var endpoint datapath.Endpoint
	v, err := e.decide(flow)
	switch v {
	case direct:
		endpoint, err = e.open(ctx, flow, dst)
	case host:
		endpoint, err = e.openHost(ctx, flow)
	}
	if err != nil {
		return nil, fmt.Errorf("dial %s: %w", dst, err)
	}
	switch endpoint := endpoint.(type) {
	case *farEndpoint:
		return endpoint.Conn, nil
	case goneEndpoint:
		return nil, fmt.Errorf("dial %s: %w", dst, syscall.ECONNRESET)
	}
	return nil, fmt.Errorf("dial %s: %w", dst, syscall.ECONNREFUSED)
}

// proxyEndpoint is our forward proxy.
type proxyEndpoint struct {
	proxies Proxies
	flow    portolan.Flow
}

func (p proxyEndpoint) Serve(ctx context.Context, conn datapath.Conn) {
	p.proxies.ServeTCP(ctx, conn, p.flow)
}

func (proxyEndpoint) Close() error { return nil }
