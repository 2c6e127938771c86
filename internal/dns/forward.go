package dns

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"sync"
	"time"

	miekg "github.com/miekg/dns"

	"github.com/portolan-net/portolan/internal/portolan"
	"github.com/portolan-net/portolan/internal/system"
)

// transport is how a query came and how it goes on.
type transport uint8

const (
	overUDP transport = iota
	overTCP
	transports
)

// maxAsking bounds the sockets towards resolvers.
const maxAsking = 2048

// forwarder takes queries to the host's resolvers.
type forwarder struct {
	dialer  *net.Dialer
	servers [transports]upstreams
	asking  chan struct{}
	buffers sync.Pool // of *[maxMessage]byte
}

func newForwarder(dialer *net.Dialer, link portolan.Link) *forwarder {
	f := &forwarder{dialer: dialer, asking: make(chan struct{}, maxAsking)}
	f.buffers.New = func() any { return new([maxMessage]byte) }
	for i := range f.servers {
		f.servers[i].own = []portolan.Pair{link.DNS(), link.Gateway(), link.Host(), link.Machine()}
	}
	return f
}

// exchange runs one race. It calls deliver exactly once, with the id that the
// client chose and the server that gave the answer, and returns when every socket
// that it opened is closed.
func (f *forwarder) exchange(ctx context.Context, q *query, resolver system.Resolver, how transport, deliver func([]byte, netip.AddrPort, error)) {
	if q.qtype == miekg.TypeAXFR || q.qtype == miekg.TypeIXFR {
		deliver(nil, netip.AddrPort{}, errTransfer) // an answer of many messages, which stub resolvers do not ask for
		return
	}
	if resolver.UseVC {
		how = overTCP
	}
	now := time.Now()
	plan := f.servers[how].plan(now, resolver.Servers, resolver.Rotate)
	if len(plan) == 0 {
		deliver(nil, netip.AddrPort{}, errNoServers)
		return
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	h := &heat{
		race: newRace(plan), f: f, q: q, how: how, began: now, deliver: deliver,
		outcomes: make(chan outcome, len(plan)),
		asked:    make([]time.Time, len(plan)),
	}
	h.run(ctx)
	cancel()
	h.asks.Wait()
}

// heat is one race being run: the race with clocks and sockets.
type heat struct {
	*race
	f       *forwarder
	q       *query
	how     transport
	began   time.Time
	deliver func([]byte, netip.AddrPort, error)

	outcomes chan outcome // has room for all
	asked    []time.Time
	asks     sync.WaitGroup
}

// run returns when the race is decided and no candidate is worth waiting for.
func (h *heat) run(ctx context.Context) {
	silent := time.NewTimer(silence)
	defer silent.Stop()
	next := time.NewTimer(h.ask(ctx))
	defer next.Stop()
	var polite <-chan time.Time
	for !h.decided || h.running > 0 {
		select {
		case <-next.C:
			if h.wantsMore() {
				h.plan[h.started-1].lag()
				next.Reset(h.ask(ctx))
			}
		case o := <-h.outcomes:
			h.note(ctx, o)
			if h.wantsMore() {
				next.Reset(h.ask(ctx))
			}
			if polite == nil && h.waits() {
				polite = time.After(time.Until(h.began.Add(courtesy)))
			}
			if h.over() {
				h.decide(h.verdict())
			}
		case <-polite:
			h.decide(h.verdict())
		case <-silent.C:
			if !h.blame() {
				h.decide(h.verdict())
			}
			if h.decided {
				return
			}
		case <-ctx.Done():
			h.decide(h.verdict())
			return
		}
	}
}

// ask starts the next candidate and returns how long to wait for it alone.
func (h *heat) ask(ctx context.Context) time.Duration {
	i := h.start()
	h.asked[i] = time.Now()
	h.asks.Go(func() {
		answer, err := h.f.ask(ctx, h.plan[i].addr, h.how, h.q)
		h.outcomes <- outcome{i, answer, err}
	})
	return h.plan[i].hedge
}

// note takes an outcome into account, for this race and for the server's health.
func (h *heat) note(ctx context.Context, o outcome) {
	winner := h.take(o)
	server, now := h.plan[o.index].upstream, time.Now()
	switch {
	case o.err == nil:
		server.answer(now, now.Sub(h.asked[o.index]))
	case ctx.Err() == nil && !errors.Is(o.err, errBusy):
		server.fail(now, h.asked[o.index])
	}
	if winner != nil {
		h.decide(o.index, winner, nil)
	}
}

// blame notes the silence of those asked long ago, and reports whether one of them
// has answered somebody else meanwhile.
func (h *heat) blame() (alive bool) {
	now := time.Now()
	for i := range h.started {
		if !h.silent[i] {
			continue
		}
		alive = alive || h.plan[i].answeredSince(h.began)
		if now.Sub(h.asked[i]) >= silence/2 {
			h.plan[i].fail(now, h.asked[i])
		}
	}
	return alive
}

// decide delivers, the first time. An answer comes from the candidate index.
func (h *heat) decide(index int, answer []byte, err error) {
	if h.decided {
		return
	}
	h.decided = true
	var from netip.AddrPort
	if answer != nil {
		answer[0], answer[1] = h.q.raw[0], h.q.raw[1]
		from = h.plan[index].addr
	}
	h.deliver(answer, from, err)
}
