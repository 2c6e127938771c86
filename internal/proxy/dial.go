package proxy

import (
	"context"
	"errors"
	"net"
)

// Dialer walks the routes of decisions.
type Dialer struct {
	// Direct dials without a proxy, and to proxies: as the host does. address
	// may hold a name.
	Direct func(ctx context.Context, network, address string) (net.Conn, error)
}

// Dial decides and reaches the destination by the first route that works. The
// connection is a *net.TCPConn wherever no TLS is spoken to the proxy, so that
// it can be spliced.
func (d *Dialer) Dial(ctx context.Context, p *Policy, to Destination) (net.Conn, Decision, error) {
	decision, err := p.Decide(ctx, to)
	if err != nil {
		return nil, decision, err
	}
	conn, _, err := d.Walk(ctx, decision, to)
	return conn, decision, err
}

// Walk reaches a destination by the first route of a decision that works, and
// says which that was.
func (d *Dialer) Walk(ctx context.Context, decision Decision, to Destination) (net.Conn, Route, error) {
	conn, err := d.Direct(ctx, "tcp", to.Address())
	return conn, Route{}, err
}

// DialProxy connects to the proxy of an HTTP or HTTPS route, TLS to it
// included, and says nothing yet: for requests in absolute form, which carry
// Route.Authorization as Proxy-Authorization.
func (d *Dialer) DialProxy(ctx context.Context, r Route) (net.Conn, error) {
	return nil, &UnreachableError{Route: r, Err: errors.New("not built yet")}
}
