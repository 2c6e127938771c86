package server

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/portolan-net/portolan/internal/datapath"
	"github.com/portolan-net/portolan/internal/portolan"
	"github.com/portolan-net/portolan/internal/proxy"
	"github.com/portolan-net/portolan/internal/relay"
)

// Theory of operation: transparent ports
//
// A container's SYN to one of the ports is held. What is known then is an
// address; the name comes with the first bytes, after the handshake. So the SYN
// is answered by what the address alone decides:
//
//	by address      names matter   the SYN is                       afterwards
//	direct          no (excluded)  left to egress                   nothing
//	direct          yes (PAC)      accepted                         by name
//	a proxy                        accepted once a proxy accepts    by name
//	blocked         no             refused as prohibited            nothing
//	blocked         yes            accepted                         by name
//	no decision                    refused as prohibited            nothing
//
// "Names matter" where a PAC script decides, or an exclusion is a name. After
// the handshake the first bytes are peeked at (peek.go), the policy is asked
// again with the name, and the way is opened; the bytes are sent on, and relay
// does the rest. Where a name leads past the proxies, its own addresses are
// dialled, not the one that the container chose: anybody can write any name.
// Many proxies let CONNECT through to port 443 only. Requests of HTTP are then
// sent to the proxy one by one, as the forward proxy does, with no splicing.
// What can't be opened is told to clients that speak HTTP, and reset for others.

// errProhibited is what the machine is shown for what the policy blocks.
var errProhibited = syscall.EACCES

// OpenTCP implements egress.Proxies.
func (s *Server) OpenTCP(ctx context.Context, flow portolan.Flow) (datapath.Endpoint, bool, error) {
	policy := s.cfg.Policies.Containers()
	if !s.concerns(policy, flow) {
		return nil, false, nil
	}
	to := proxy.Destination{Host: flow.Dst.Addr().String(), Port: flow.Dst.Port()}
	decision, err := policy.Decide(ctx, to)
	if err != nil {
		return nil, true, fmt.Errorf("open %s: %w: %w", flow, err, errProhibited)
	}
	names := namesMatter(policy, decision)
	e := &namedEndpoint{client: client{server: s, addr: flow.Src.Addr()}, flow: flow}
	switch {
	case decision.Direct() && !names:
		return nil, false, nil
	case decision.Blocked() && !names:
		return nil, true, fmt.Errorf("open %s: %s: %w", flow, decision.Rule, errProhibited)
	case !decision.Direct() && !decision.Blocked():
		if err := e.prepare(ctx, decision.Routes); err != nil {
			return nil, true, fmt.Errorf("open %s: %w", flow, err)
		}
	}
	return e, true, nil
}

// MayOpen implements egress.Proxies.
func (s *Server) MayOpen(flow portolan.Flow) bool {
	return s.concerns(s.cfg.Policies.Containers(), flow)
}

// concerns reports whether policy is for flow, whatever it says.
func (s *Server) concerns(policy *proxy.Policy, flow portolan.Flow) bool {
	return policy.Configured() && !s.cfg.Link.Machine().Has(flow.Src.Addr()) && s.cfg.TransparentPorts().Has(flow.Dst.Port())
}

// namesMatter reports whether a name could change what an address decided. An
// excluded address is direct under every name.
func namesMatter(policy *proxy.Policy, decision proxy.Decision) bool {
	if strings.HasPrefix(decision.Source, "PAC ") {
		return true
	}
	return !decision.Direct() && slices.ContainsFunc(policy.Exclusions(), isName)
}

// isName reports exclusions that are no address and no network.
func isName(exclusion string) bool {
	if _, err := netip.ParsePrefix(exclusion); err == nil {
		return false
	}
	if _, err := netip.ParseAddrPort(exclusion); err == nil {
		return false
	}
	_, err := netip.ParseAddr(strings.Trim(exclusion, "[]"))
	return err != nil
}

// Allow implements egress.Proxies: where everything but exclusions is blocked,
// UDP and ICMP are, too.
func (s *Server) Allow(flow portolan.Flow) error {
	policy := s.cfg.Policies.Containers()
	if !policy.Closed() || s.cfg.Link.Machine().Has(flow.Src.Addr()) {
		return nil
	}
	to := proxy.Destination{Host: flow.Dst.Addr().String(), Port: flow.Dst.Port()}
	if policy.Excludes(to) {
		return nil
	}
	return fmt.Errorf("carry %s: what is not excluded is blocked: %w", flow, errProhibited)
}

// namedEndpoint is a flow whose first bytes will say where it goes.
type namedEndpoint struct {
	client
	flow  portolan.Flow
	ready atomic.Pointer[readyConn]
	took  time.Duration // to connect to the proxy; set before Serve
}

// readyConn is a connection to a proxy on which nothing has been said.
type readyConn struct {
	net.Conn
	address string // host:port of the proxy
}

// prepare connects to the first proxy that accepts.
func (e *namedEndpoint) prepare(ctx context.Context, routes []proxy.Route) error {
	began := time.Now()
	defer func() { e.took = time.Since(began) }()
	ctx, cancel := context.WithTimeout(ctx, e.server.reach)
	defer cancel()
	conn, err := e.walk(ctx, routes, func(ctx context.Context, r proxy.Route) (net.Conn, error) {
		switch r.Kind {
		case proxy.Blocked:
			return nil, errProhibited
		case proxy.Direct: // the last resort of a script, to be dialled when its turn comes
			return nil, nil
		}
		conn, err := e.server.proxy.Connect(ctx, r)
		if err != nil {
			return nil, err
		}
		return &readyConn{Conn: conn, address: r.Address}, nil
	})
	if ready, ok := conn.(*readyConn); ok {
		e.ready.Store(ready)
	}
	return err
}

// Close gives the flow up before it began.
func (e *namedEndpoint) Close() error {
	if ready := e.ready.Swap(nil); ready != nil {
		return ready.Close()
	}
	return nil
}

// dialReady is dialHost that begins with the connection at hand.
func (e *namedEndpoint) dialReady(ctx context.Context, network, address string) (net.Conn, error) {
	if ready := e.ready.Swap(nil); ready != nil {
		if ready.address == address {
			return ready.Conn, nil
		}
		_ = ready.Close() // the name leads elsewhere
	}
	return e.server.dialHost(ctx, network, address)
}

// Serve reads the name, opens the way, and relays.
func (e *namedEndpoint) Serve(ctx context.Context, conn datapath.Conn) {
	defer e.Close()
	log := e.server.cfg.Log
	first, err := peek(ctx, conn, e.flow.Dst.Port())
	if err != nil {
		log.Debug("transparent flow ended before it began", "flow", e.flow, "error", err)
		datapath.Reset(conn)
		return
	}
	to := proxy.Destination{Host: e.flow.Dst.Addr().String(), Port: e.flow.Dst.Port()}
	if first.name != "" {
		to.Host = first.name
	}
	if first.kind == speaksPlainHTTP {
		to.URL = "http://" + to.Address() + "/"
	}
	far, err := e.open(ctx, to)
	if err == nil && len(first.bytes) > 0 {
		_, err = far.Write(first.bytes)
	}
	if err != nil {
		if first.kind == speaksPlainHTTP && refusesTunnel(err) {
			f := &forward{client: e.client, origin: to.Port}
			f.serve(ctx, &resumedConn{Conn: conn, first: first.bytes})
			return
		}
		e.refuse(conn, first, to, err)
		return
	}
	began := time.Now()
	stats := relay.TCP(ctx, conn, far)
	log.Debug("transparent flow ended", "flow", e.flow, "name", first.name,
		"sent", stats.AToB, "received", stats.BToA, "duration", time.Since(began))
}

// open asks the policy again, now with the name, and opens the way in what is left
// of the time that connecting has begun to take.
func (e *namedEndpoint) open(ctx context.Context, to proxy.Destination) (datapath.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, e.server.answer-e.took)
	defer cancel()
	decision, err := e.decide(ctx, to)
	if err != nil {
		return nil, err
	}
	dialer := e.server.proxy.With(e.dialReady)
	conn, err := e.walk(ctx, decision.Routes, func(ctx context.Context, r proxy.Route) (net.Conn, error) {
		return e.tunnel(ctx, dialer, r, to)
	})
	if err != nil {
		return nil, &reachError{decision: decision, err: err}
	}
	stream, ok := conn.(datapath.Conn)
	if !ok {
		return nil, errors.Join(errors.New("the connection can't be half closed"), conn.Close())
	}
	return stream, nil
}

// refusesTunnel reports that an HTTP proxy has no CONNECT for a destination.
func refusesTunnel(err error) bool {
	var refused *proxy.RefusedError
	return errors.As(err, &refused) && speaksHTTP(refused.Route) &&
		(refused.Code == http.StatusForbidden || refused.Code == http.StatusMethodNotAllowed)
}

// refuse says why there is no way, to those who understand, and ends the flow.
func (e *namedEndpoint) refuse(conn datapath.Conn, first opening, to proxy.Destination, err error) {
	code, text := report(err, "containersProxy")
	e.server.cfg.Log.Debug("refuse transparent flow", "flow", e.flow, "to", to.Address(), "error", err)
	if first.kind != speaksPlainHTTP {
		datapath.Reset(conn)
		return
	}
	tell(conn, code, text)
}
