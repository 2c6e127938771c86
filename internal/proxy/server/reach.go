package server

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"time"

	"github.com/portolan-net/portolan/internal/datapath"
	"github.com/portolan-net/portolan/internal/proxy"
)

// errContainer is the refusal of destinations inside the engine.
var errContainer = errors.New("it is an address of the engine's own networks, which are not reached through the proxy")

// decide asks the policy. What no proxy could reach is direct whatever it says,
// unless it blocks.
func (c client) decide(ctx context.Context, to proxy.Destination) (proxy.Decision, error) {
	addr, _ := netip.ParseAddr(to.Host)
	if c.server.inNetworks(addr) {
		return proxy.Decision{}, &refusedError{to, errContainer}
	}
	policy, _ := c.policy()
	decision, err := policy.Decide(ctx, to)
	if err != nil {
		return decision, err
	}
	if decision.Blocked() {
		return decision, &proxy.BlockedError{Destination: to, Decision: decision}
	}
	if c.server.cfg.Link.Contains(addr) {
		return proxy.Decision{Routes: []proxy.Route{{}}, Source: "built in", Rule: "addresses of Portolan's are always direct"}, nil
	}
	return decision, nil
}

// reach decides and opens a stream to the destination.
func (c client) reach(ctx context.Context, to proxy.Destination) (datapath.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, c.server.reach)
	defer cancel()
	decision, err := c.decide(ctx, to)
	if err != nil {
		return nil, err
	}
	conn, err := c.walk(ctx, decision.Routes, func(ctx context.Context, r proxy.Route) (net.Conn, error) {
		return c.tunnel(ctx, &c.server.proxy, r, to)
	})
	if err != nil {
		return nil, &reachError{decision: decision, err: err}
	}
	stream, ok := conn.(datapath.Conn)
	if !ok {
		conn.Close()
		return nil, fmt.Errorf("reach %s: the connection can't be half closed", to.Address())
	}
	return stream, nil
}

// walk opens the first route that works. A proxy that answers and refuses ends
// the walk: only those that can't be reached have an understudy. So does a route
// that blocks: nothing behind it counts.
func (c client) walk(ctx context.Context, routes []proxy.Route, open func(context.Context, proxy.Route) (net.Conn, error)) (net.Conn, error) {
	var errs []error
	for i, r := range c.server.proxy.Order(routes) {
		ctx, cancel := share(ctx, len(routes)-i)
		conn, err := open(ctx, r)
		cancel()
		if err == nil {
			return conn, nil
		}
		errs = append(errs, err)
		if _, refused := errors.AsType[*proxy.RefusedError](err); refused || r.Kind == proxy.Blocked {
			break
		}
	}
	return nil, errors.Join(errs...)
}

// share gives one of several attempts its part of the time that is left.
func share(ctx context.Context, attempts int) (context.Context, context.CancelFunc) {
	deadline, ok := ctx.Deadline()
	if !ok {
		return context.WithCancel(ctx)
	}
	return context.WithTimeout(ctx, time.Until(deadline)/time.Duration(attempts))
}

// tunnel reaches the destination by one route.
func (c client) tunnel(ctx context.Context, dialer *proxy.Dialer, r proxy.Route, to proxy.Destination) (net.Conn, error) {
	switch r.Kind {
	case proxy.Blocked:
		return nil, &proxy.BlockedError{Destination: to, Decision: proxy.Decision{Source: "PAC script", Rule: "no other way is left"}}
	case proxy.Direct:
		return c.dial(ctx, to)
	case proxy.SOCKS5:
		return c.tunnelByAddress(ctx, dialer, r, to)
	}
	conn, _, err := dialer.Walk(ctx, proxy.Decision{Routes: []proxy.Route{r}}, to)
	return conn, err
}

// tunnelByAddress looks the name up itself: the proxy is not to.
func (c client) tunnelByAddress(ctx context.Context, dialer *proxy.Dialer, r proxy.Route, to proxy.Destination) (net.Conn, error) {
	addrs, err := c.lookup(ctx, to)
	if err != nil {
		return nil, err
	}
	var errs []error
	for i, addr := range addrs {
		to.Host = addr.String()
		ctx, cancel := share(ctx, len(addrs)-i)
		conn, _, err := dialer.Walk(ctx, proxy.Decision{Routes: []proxy.Route{r}}, to)
		cancel()
		if err == nil {
			return conn, nil
		}
		errs = append(errs, err)
		if _, unreachable := errors.AsType[*proxy.UnreachableError](err); unreachable {
			break // another address leads to the same proxy
		}
	}
	return nil, errors.Join(errs...)
}

// dial goes the direct way.
func (c client) dial(ctx context.Context, to proxy.Destination) (datapath.Conn, error) {
	addrs, err := c.lookup(ctx, to)
	if err != nil {
		return nil, err
	}
	var errs []error
	for i, addr := range addrs {
		ctx, cancel := share(ctx, len(addrs)-i)
		conn, err := c.server.cfg.Dial(ctx, c.addr, netip.AddrPortFrom(addr, to.Port))
		cancel()
		if err == nil {
			return conn, nil
		}
		errs = append(errs, err)
	}
	return nil, errors.Join(errs...)
}

// lookup returns the destination's addresses.
func (c client) lookup(ctx context.Context, to proxy.Destination) ([]netip.Addr, error) {
	addr, err := netip.ParseAddr(to.Host)
	addrs := []netip.Addr{addr}
	if err != nil {
		if addrs, err = c.server.cfg.Lookup(ctx, to.Host); err != nil {
			return nil, err
		}
	}
	if slices.ContainsFunc(addrs, c.server.inNetworks) {
		return nil, &refusedError{to, errContainer}
	}
	return addrs, nil
}
