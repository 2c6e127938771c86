package server

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/url"
	"sync/atomic"
	"time"

	"github.com/portolan-net/portolan/internal/proxy"
)

// exchanger is the http.RoundTripper of one request.
type exchanger struct {
	*forward
	to proxy.Destination
}

// dialError: the request was not sent, so another route may take it.
type dialError struct{ error }

func (e dialError) Unwrap() error { return e.error }

// RoundTrip sends the request by the first route that works.
func (e *exchanger) RoundTrip(r *http.Request) (*http.Response, error) {
	decision, err := e.decide(r.Context(), e.to)
	if err != nil {
		return nil, err
	}
	var errs []error
	began := time.Now()
	by := began.Add(e.server.reach)
	for i, route := range e.server.proxy.Order(decision.Routes) {
		if route.Kind == proxy.Blocked {
			errs = append(errs, &proxy.BlockedError{Destination: e.to, Decision: decision})
			break
		}
		ctx := context.WithValue(r.Context(), dialBy{}, time.Now().Add(time.Until(by)/time.Duration(len(decision.Routes)-i)))
		response, err := e.inTime(r.WithContext(ctx), route, began)
		if err == nil {
			return response, nil
		}
		errs = append(errs, err)
		var refused *proxy.RefusedError
		if unsent := (dialError{}); !errors.As(err, &unsent) || errors.As(err, &refused) {
			break
		}
	}
	return nil, &reachError{decision: decision, err: errors.Join(errs...)}
}

// dialBy is the key of a request's context under which stands until when its
// present route has to be connected: transports dial without its deadline.
type dialBy struct{}

// roundTrip sends the request by one route, a second time to a proxy that wants
// another login than the one it got.
func (e *exchanger) roundTrip(r *http.Request, route proxy.Route) (*http.Response, error) {
	if r.Method == http.MethodTrace && e.server.proxy.NTLM(route) { // see outgoing
		return nil, &proxy.RefusedError{Route: route, Code: http.StatusMethodNotAllowed, Status: "TRACE would return the login"}
	}
	for again := false; ; again = true {
		out := e.outgoing(r, route)
		transport := e.transport(route)
		if !repeatable(out) {
			transport.CloseIdleConnections()
		}
		response, err := transport.RoundTrip(out)
		if err != nil {
			return nil, err
		}
		other := e.server.proxy.Heard(route, response)
		if response.StatusCode != http.StatusProxyAuthRequired || !speaksHTTP(route) {
			return response, nil
		}
		response.Body.Close()
		if body, _ := out.Body.(*unsentBody); other && !again && (body == nil || !body.read.Load()) {
			e.forget(route)
			continue
		}
		return nil, &proxy.RefusedError{Route: route, Code: response.StatusCode, Status: response.Status}
	}
}

// repeatable reports requests that a transport sends again when the other side
// has just closed the connection that was kept alive, as any may. All others get a
// fresh one.
func repeatable(r *http.Request) bool {
	switch r.Method {
	case http.MethodGet, http.MethodHead, http.MethodOptions, http.MethodTrace:
		return r.Body == nil || r.Body == http.NoBody
	}
	return false
}

// outgoing is the request as a route gets it.
func (e *exchanger) outgoing(r *http.Request, route proxy.Route) *http.Request {
	out := r.Clone(r.Context())
	out.Trailer = r.Trailer
	if r.Body != nil && r.Body != http.NoBody {
		out.Body = &unsentBody{Reader: r.Body}
	}
	// Who answers TRACE returns what it was sent (RFC 9110, section 9.3.8).
	auth := route.Authorization()
	if auth == "" || !speaksHTTP(route) || r.Method == http.MethodTrace || e.server.proxy.NTLM(route) {
		return out
	}
	out.Header.Set("Proxy-Authorization", auth)
	if out.Body != nil && !e.server.proxy.Knows(route) { // one that wants another login says so before it is sent
		out.Header.Set("Expect", "100-continue")
	}
	return out
}

// unsentBody knows whether some of it is gone. A route that fails must not close
// it for the next.
type unsentBody struct {
	io.Reader
	read atomic.Bool
}

// Read notes that it was called.
func (b *unsentBody) Read(p []byte) (int, error) {
	b.read.Store(true)
	return b.Reader.Read(p)
}

// Close leaves the body to the next route.
func (b *unsentBody) Close() error { return nil }

// speaksHTTP reports proxies that take requests in absolute form.
func speaksHTTP(r proxy.Route) bool { return r.Kind == proxy.HTTP || r.Kind == proxy.HTTPS }

// transport returns the client's own transport for a route: connections kept
// alive on one are not used for another, nor for another client. Only one is kept
// at all: a client's connection is to cost the host no more than two.
func (e *exchanger) transport(route proxy.Route) *http.Transport {
	e.mu.Lock()
	defer e.mu.Unlock()
	for other, t := range e.transports {
		if other != route {
			t.CloseIdleConnections()
			delete(e.transports, other)
		}
	}
	if t, ok := e.transports[route]; ok {
		return t
	}
	t := &http.Transport{
		DisableCompression:    true,
		MaxIdleConns:          1, // a client sends one request at a time
		IdleConnTimeout:       idleTimeout,
		ExpectContinueTimeout: time.Second,
		DialContext:           e.dialer(route),
	}
	if speaksHTTP(route) {
		t.Proxy = http.ProxyURL(&url.URL{Scheme: "http", Host: route.Address}) // DialContext speaks TLS where it must
	}
	if e.transports == nil {
		e.transports = map[proxy.Route]*http.Transport{}
	}
	e.transports[route] = t
	return t
}

// forget ends the transport of a route: its connections are logged in otherwise.
func (e *exchanger) forget(route proxy.Route) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if t, ok := e.transports[route]; ok {
		t.CloseIdleConnections()
		delete(e.transports, route)
	}
}

// dialer is DialContext for a route: to the proxy where that speaks HTTP, to the
// destination itself, or through a tunnel.
func (e *exchanger) dialer(route proxy.Route) func(context.Context, string, string) (net.Conn, error) {
	return func(ctx context.Context, _, address string) (net.Conn, error) {
		by, ok := ctx.Value(dialBy{}).(time.Time)
		if !ok {
			by = time.Now().Add(e.server.reach)
		}
		ctx, cancel := context.WithDeadline(ctx, by)
		defer cancel()
		var conn net.Conn
		var err error
		switch {
		case e.server.proxy.NTLM(route) && speaksHTTP(route):
			conn, err = e.server.proxy.DialNTLM(ctx, route, e.to)
		case speaksHTTP(route):
			conn, err = e.server.proxy.DialProxy(ctx, route)
		default:
			var to proxy.Destination
			if to, err = parseTarget(address, 0); err == nil {
				conn, err = e.tunnel(ctx, &e.server.proxy, route, to)
			}
		}
		if err != nil {
			return nil, dialError{err}
		}
		return newOutboundConn(conn), nil
	}
}
