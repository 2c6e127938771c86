package server

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptrace"
	"os"
	"sync"
	"time"

	"github.com/portolan-net/portolan/internal/proxy"
)

// answerTimeout bounds what a proxy takes to be connected to and, once it has the
// request, to begin its answer: both together. Nothing tells a proxy that has died
// from a server behind it that takes its time.
const answerTimeout = 29 * time.Second

// errNoAnswer is why a request is given up.
var errNoAnswer = fmt.Errorf("no answer in time: %w", os.ErrDeadlineExceeded)

// inTime is roundTrip for a request whose time began to count at began.
func (e *exchanger) inTime(r *http.Request, route proxy.Route, began time.Time) (*http.Response, error) {
	if !speaksHTTP(route) {
		return e.roundTrip(r, route)
	}
	ctx, p := newPatience(r.Context(), began, e.server.answer)
	response, err := e.roundTrip(r.WithContext(ctx), route)
	p.end()
	if !errors.Is(context.Cause(ctx), errNoAnswer) {
		return response, err
	}
	if response != nil {
		response.Body.Close()
	}
	return nil, &proxy.UnreachableError{Route: route, Err: errNoAnswer}
}

// patience gives a request up whose answer does not begin in time. Sending it does
// not count: uploads take what they take.
type patience struct {
	began  time.Time
	limit  time.Duration
	giveUp context.CancelCauseFunc

	mu   sync.Mutex // guards what follows
	left time.Duration
	late *time.Timer // nil until the request is sent
	over bool        // there is an answer, or an error
}

// newPatience returns what has to end, and the context that the request needs. It
// lives as long as ctx, since the answer's body comes by it.
func newPatience(ctx context.Context, began time.Time, limit time.Duration) (context.Context, *patience) {
	p := &patience{began: began, limit: limit}
	ctx, p.giveUp = context.WithCancelCause(ctx)
	return httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		GotConn: func(httptrace.GotConnInfo) { p.connected() }, WroteRequest: func(httptrace.WroteRequestInfo) { p.sent() },
	}), p
}

// connected comes before each attempt to send.
func (p *patience) connected() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.stopLocked()
	p.left = p.limit - time.Since(p.began)
}

// sent begins the wait.
func (p *patience) sent() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.over {
		p.stopLocked()
		p.late = time.AfterFunc(p.left, func() { p.giveUp(errNoAnswer) })
	}
}

// end stops the clock.
func (p *patience) end() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.over = true
	p.stopLocked()
}

func (p *patience) stopLocked() {
	if p.late != nil {
		p.late.Stop()
	}
}
