package proxy

import (
	"bufio"
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"slices"
	"sync/atomic"
	"time"
)

// How long things take at most. A client of ours is told before it gives up.
const (
	// routeTime is for one proxy: connection, TLS, and its answer, for which the
	// proxy has to reach the destination.
	routeTime = 20 * time.Second
	// walkTime is for all the routes of one decision.
	walkTime = 28 * time.Second
	// deadTime is how long a proxy that could not be reached comes last, where
	// there is another way.
	deadTime = 30 * time.Second
)

// Dialer walks the routes of decisions. It is safe for concurrent use, and must
// not be copied.
type Dialer struct {
	// Direct dials without a proxy, and to proxies: as the host does. address
	// may hold a name.
	Direct func(ctx context.Context, network, address string) (net.Conn, error)
	// TLS is for proxies that are spoken to in TLS; nil trusts what the host
	// trusts. The name is filled in.
	TLS *tls.Config

	known atomic.Pointer[proxyMemory] // nil until there is something
}

// Dial decides and reaches the destination by the first route that works. The
// connection is what Direct returned wherever no TLS is spoken to the proxy, so
// that it can be spliced. The error is one of this package's types, or Direct's
// own.
func (d *Dialer) Dial(ctx context.Context, p *Policy, to Destination) (net.Conn, Decision, error) {
	decision, err := p.Decide(ctx, to)
	if err != nil {
		return nil, decision, err
	}
	conn, _, err := d.Walk(ctx, decision, to)
	return conn, decision, err
}

// Walk reaches a destination by the first route of a decision that works, and
// says which that was. The next route is taken where a proxy can't be reached,
// not where it refuses.
func (d *Dialer) Walk(ctx context.Context, decision Decision, to Destination) (net.Conn, Route, error) {
	ctx, cancel := context.WithTimeout(ctx, walkTime)
	defer cancel()
	err := errors.New("no way to " + to.Address())
	for _, r := range d.order(decision.Routes) {
		var conn net.Conn
		if r.Kind == Blocked {
			return nil, r, &BlockedError{Destination: to, Decision: decision}
		}
		if conn, err = d.walk(ctx, r, to); err == nil {
			return conn, r, nil
		}
		var unreachable *UnreachableError
		if r.Kind != Direct && !errors.As(err, &unreachable) || ctx.Err() != nil {
			return nil, r, err
		}
	}
	return nil, Route{}, err
}

// order puts proxies that were dead a moment ago behind the others. What is
// blocked stays where it is: nothing behind it counts.
func (d *Dialer) order(routes []Route) []Route {
	if len(routes) < 2 || slices.ContainsFunc(routes, func(r Route) bool { return r.Kind == Blocked }) {
		return routes
	}
	ordered := slices.Clone(routes)
	slices.SortStableFunc(ordered, func(a, b Route) int {
		late := func(r Route) int {
			if r.Kind != Direct && d.memory().dead(r.Address) {
				return 1
			}
			return 0
		}
		return cmp.Compare(late(a), late(b))
	})
	return ordered
}

func (d *Dialer) walk(ctx context.Context, r Route, to Destination) (net.Conn, error) {
	if r.Kind == Direct {
		return d.Direct(ctx, "tcp", to.Address())
	}
	ctx, cancel := context.WithTimeout(ctx, routeTime)
	defer cancel()
	conn, err := d.through(ctx, r, to)
	if refused, ok := errors.AsType[*RefusedError](err); ok && refused.other {
		conn, err = d.through(ctx, r, to)
	}
	d.note(ctx, r.Address, err)
	return conn, err
}

// through reaches the destination by way of a proxy.
func (d *Dialer) through(ctx context.Context, r Route, to Destination) (net.Conn, error) {
	if r.Kind == SOCKS5 {
		addr, err := resolve(ctx, to.Host)
		if err != nil {
			return nil, err
		}
		to.Host = addr.String()
	}
	conn, err := d.DialProxy(ctx, r)
	if err != nil {
		return nil, err
	}
	stop := endWith(ctx, conn)
	var used net.Conn
	if r.Kind == SOCKS5 || r.Kind == SOCKS5H {
		used, err = conn, connectSOCKS(conn, r, to)
	} else {
		used, err = d.connectHTTP(conn, r, to)
	}
	if !stop() && err == nil {
		err = context.Cause(ctx)
	}
	if err == nil {
		return used, nil
	}
	_ = conn.Close()
	if _, ok := errors.AsType[*RefusedError](err); ok {
		return nil, err
	}
	if ctx.Err() != nil {
		err = fmt.Errorf("no answer in time: %w", context.Cause(ctx))
	}
	return nil, &UnreachableError{Route: r, Err: err}
}

// endWith makes reads and writes of conn end with ctx, until stop is called. It
// reports whether they did not.
func endWith(ctx context.Context, conn net.Conn) (stop func() bool) {
	ended := make(chan struct{})
	undo := context.AfterFunc(ctx, func() {
		_ = conn.SetDeadline(time.Unix(1, 0))
		close(ended)
	})
	return func() bool {
		if undo() {
			return true
		}
		<-ended
		return false
	}
}

// Connect opens a TCP connection to the proxy of a route.
func (d *Dialer) Connect(ctx context.Context, r Route) (net.Conn, error) {
	if r.Address == "" {
		return nil, fmt.Errorf("reach proxy: a route that is %s has none", r)
	}
	conn, err := d.Direct(ctx, "tcp", r.Address)
	if err != nil {
		err = &UnreachableError{Route: r, Err: err}
		d.note(ctx, r.Address, err)
		return nil, err
	}
	return conn, nil
}

// DialProxy connects to the proxy of a route, TLS to it included, and says
// nothing yet: for requests in absolute form, which carry Route.Authorization
// as Proxy-Authorization.
func (d *Dialer) DialProxy(ctx context.Context, r Route) (net.Conn, error) {
	conn, err := d.Connect(ctx, r)
	if err != nil || r.Kind != HTTPS {
		return conn, err
	}
	cfg := d.TLS.Clone()
	if cfg == nil {
		cfg = &tls.Config{MinVersion: tls.VersionTLS12}
	}
	cfg.ServerName, _, _ = net.SplitHostPort(r.Address)
	cfg.NextProtos = []string{"http/1.1"}
	secure := tls.Client(conn, cfg)
	if err := secure.HandshakeContext(ctx); err != nil {
		_ = conn.Close()
		err = &UnreachableError{Route: r, Err: fmt.Errorf("speak TLS: %w", err)}
		d.note(ctx, r.Address, err)
		return nil, err
	}
	return secure, nil
}

// early is a connection whose other side has spoken before it was asked: what
// came with the proxy's answer is read first.
type early struct {
	net.Conn
	rest *bufio.Reader
}

func (e *early) Read(p []byte) (int, error) {
	if e.rest.Buffered() > 0 {
		return e.rest.Read(p)
	}
	return e.Conn.Read(p)
}

// CloseWrite passes on the end of one direction.
func (e *early) CloseWrite() error {
	if half, ok := e.Conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return errors.New("close one direction: the connection can't")
}
