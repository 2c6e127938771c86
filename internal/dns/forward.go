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

// said is how a race ended.
type said struct {
	answer []byte         // with the id that the client chose; nil for none
	from   netip.AddrPort // the server that gave it
	first  bool           // no server before it could know better
	err    error
}

// exchange runs one race. It calls deliver exactly once, and returns when every
// socket that it opened is closed.
func (f *forwarder) exchange(ctx context.Context, q *query, names *system.NameConfig, how transport, deliver func(said)) {
	if q.qtype == miekg.TypeAXFR || q.qtype == miekg.TypeIXFR {
		deliver(said{err: errTransfer}) // an answer of many messages, which stub resolvers do not ask for
		return
	}
	if names.Resolver.UseVC {
		how = overTCP
	}
	plan := f.servers[how].plan(time.Now(), names)
	if len(plan) == 0 {
		deliver(said{err: errNoServers})
		return
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	h := &heat{
		race: newRace(plan), f: f, q: q, how: how, deliver: deliver,
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
	deliver func(said)

	outcomes chan outcome // has room for all
	asked    []time.Time
	judged   int         // candidates whose silence is over
	overdue  *time.Timer // until that of the next one is
	asks     sync.WaitGroup
}

// run returns when the race is decided and no candidate is worth waiting for.
func (h *heat) run(ctx context.Context) {
	h.overdue = time.NewTimer(silence)
	defer h.overdue.Stop()
	next := time.NewTimer(h.ask(ctx))
	defer next.Stop()
	for !h.decided || h.running() {
		select {
		case <-next.C:
			if last := h.started - 1; h.wantsMore() {
				h.plan[last].lag(h.asked[last])
				next.Reset(h.ask(ctx))
			}
		case o := <-h.outcomes:
			h.note(ctx, o)
			if o.index == h.started-1 && h.wantsMore() {
				next.Reset(h.ask(ctx))
			}
		case <-h.overdue.C:
			h.judge()
			if h.judged < h.started {
				h.overdue.Reset(time.Until(h.asked[h.judged].Add(silence)))
			}
		case <-ctx.Done():
			h.decide(h.verdict())
			return
		}
		if h.over() {
			h.decide(h.verdict())
		}
	}
}

// ask starts the next candidate and returns how long to wait for it alone.
func (h *heat) ask(ctx context.Context) time.Duration {
	i := h.start()
	h.asked[i] = time.Now()
	if h.judged == i {
		h.overdue.Reset(silence)
	}
	h.asks.Go(func() {
		answer, err := h.f.ask(ctx, h.plan[i].addr, h.how, h.q)
		h.outcomes <- outcome{i, answer, err}
	})
	return h.plan[i].turn
}

// note takes an outcome into account, for this race and for the server's health.
func (h *heat) note(ctx context.Context, o outcome) {
	winner := h.take(o)
	server, now := h.plan[o.index].upstream, time.Now()
	switch {
	case o.err == nil:
		server.answer(now, h.asked[o.index])
	case ctx.Err() == nil && !errors.Is(o.err, errBusy):
		server.fail(now, h.asked[o.index])
	}
	if winner != nil {
		h.decide(o.index, winner, nil)
	}
}

// judge ends the silence of the candidate that was asked first of those not judged.
// One that has answered somebody else meanwhile may still answer.
func (h *heat) judge() {
	i := h.judged
	h.judged++
	if !h.silent[i] {
		return
	}
	h.plan[i].trusted = false
	alive := h.plan[i].answeredSince(h.asked[i])
	if !alive {
		h.plan[i].fail(time.Now(), h.asked[i])
	}
	if !alive || h.decided {
		h.giveUp(i)
	}
}

// decide delivers, the first time. An answer comes from the candidate index.
func (h *heat) decide(index int, answer []byte, err error) {
	if h.decided {
		return
	}
	h.decided = true
	if answer == nil {
		h.deliver(said{err: err})
		return
	}
	answer[0], answer[1] = h.q.raw[0], h.q.raw[1]
	h.deliver(said{answer: answer, from: h.plan[index].addr, first: h.plan[index].first})
}
