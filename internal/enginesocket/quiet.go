package enginesocket

import (
	"context"
	"io"
	"sync/atomic"
	"time"
)

// Theory of operation
//
// Whoever wants to start the engine again waits here until that cuts nobody off
// who can't just ask again. Where an answer ends is not looked at, so silence
// decides:
//
//	the client's last request            counts as done after both / the engine said nothing for
//	has no answer yet                    both, quietStream
//	has become a stream: attach, build   both, quietStream
//	lasts: pull, push, docker wait       the engine, quietLasting
//	any other, answered                  the engine, quiet
//
// The moment between two clients is enough: the end of a session is an event.
// Nor does a client that asks again and again put a restart off: when all that is
// left are answers that have come to rest, new requests are held until quiet is
// over, and the restart with it. Where an answer goes on after all (docker stats),
// requests are not held again for a while. A client that hangs is given up after
// quietStream, and one that is gone was never waited for.
const (
	quiet        = 3 * time.Second
	quietLasting = 10 * time.Minute // of work that goes on while it has nothing to say
	quietStream  = 12 * time.Hour   // a night at an open shell

	rest      = 200 * time.Millisecond // of an answer that has probably been given
	quietLook = 100 * time.Millisecond // how often silence is looked for
	quietWait = 30 * time.Second       // how long one call waits
	holdAgain = 5 * time.Minute        // after requests have been held in vain
	tellAgain = time.Minute            // between two words about who is waited for
)

// work is what a client asks for.
type work struct {
	name  string // method and path
	lasts bool   // see head.lasts
	first bool   // see head.preparesExec
	since time.Time
}

// epoch is from when moments count: by the monotonic clock, which nobody sets.
var epoch = time.Now()

// moment is nanoseconds since epoch, never 0.
func moment(t time.Time) int64 { return int64(t.Sub(epoch)) + 1 }

// stamped notes when something was read.
type stamped struct {
	io.Reader

	last *atomic.Int64
}

func (r stamped) Read(p []byte) (int, error) {
	n, err := r.Reader.Read(p)
	if n > 0 {
		r.last.Store(moment(time.Now()))
	}
	return n, err
}

// busy reports whether the end of the engine would cut somebody off, and whether
// that is only an answer that has probably been given.
func (s *session) busy(now time.Time) (busy, resting bool) {
	work := s.work.Load()
	if work == nil {
		return false, false
	}
	asked, answered := moment(work.since), s.answered.Load()
	silent := time.Duration(moment(now) - answered)
	switch {
	case s.switched.Load() || asked > answered:
		last := max(asked, answered, s.said.Load())
		return time.Duration(moment(now)-last) < quietStream, false
	case work.lasts:
		return silent < quietLasting, false
	case silent >= quiet:
		return false, false
	default:
		return true, silent >= rest && !work.first
	}
}

// WhileQuiet runs restart, which may end the engine, when that cuts off no client
// in the middle of something: attached, in exec, building, pulling. Who only
// follows events or logs, and hears nothing just now, does not count. Requests
// that come meanwhile wait. It waits half a minute for such a moment, tells the
// log for whom, and reports whether restart ran.
func (p *Proxy) WhileQuiet(ctx context.Context, restart func() error) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, quietWait)
	defer cancel()
	select {
	case p.turn <- struct{}{}:
		defer func() { <-p.turn }()
	case <-ctx.Done():
		return false, nil
	}
	defer p.release()
	look := time.NewTicker(quietLook)
	defer look.Stop()
	for {
		waitsFor := p.hold(time.Now())
		if waitsFor == nil {
			return true, restart()
		}
		if time.Since(p.told) >= tellAgain {
			p.told = time.Now()
			p.config.Log.Info("a restart of the engine waits for a client", "request", waitsFor.name, "since", waitsFor.since.Format(time.RFC3339))
		}
		select {
		case <-p.ended:
		case <-look.C:
		case <-ctx.Done():
			return false, nil
		}
	}
}

// hold keeps requests back from now on, unless somebody is busy with more than an
// answer that rests. It returns the work that has gone on for longest; nil says
// that there is none.
func (p *Proxy) hold(now time.Time) *work {
	p.mu.Lock()
	defer p.mu.Unlock()
	var longest *work
	free := true
	for s := range p.sessions {
		busy, resting := s.busy(now)
		if !busy {
			continue
		}
		free = free && resting
		if work := s.work.Load(); longest == nil || work.since.Before(longest.since) {
			longest = work
		}
	}
	switch {
	case !free && p.held != nil:
		p.vain = now
		p.releaseLocked()
	case !free:
	case p.held == nil && (longest == nil || now.Sub(p.vain) >= holdAgain):
		p.held = make(chan struct{})
	}
	return longest
}

// release lets requests go on.
func (p *Proxy) release() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.releaseLocked()
}

func (p *Proxy) releaseLocked() {
	if p.held != nil {
		close(p.held)
		p.held = nil
	}
}

// begin lets a request go on, and reports whether it had to wait for a restart.
func (p *Proxy) begin(ctx context.Context, s *session, asked work) (waited bool, err error) {
	for {
		p.mu.Lock()
		held := p.held
		if held == nil {
			asked.since = time.Now()
			s.work.Store(&asked)
		}
		p.mu.Unlock()
		if held == nil {
			return waited, nil
		}
		select {
		case <-held:
			waited = true
		case <-ctx.Done():
			return waited, ctx.Err()
		}
	}
}
