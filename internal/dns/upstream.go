package dns

import (
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/portolan-net/portolan/internal/portolan"
	"github.com/portolan-net/portolan/internal/system"
)

// health of one resolver of the host over one transport.
//
//	state    becomes so                              asked
//	prompt   at first; answered within its turn, or  in its turn
//	         late for once
//	slow     silent since its turn began, as long    together with the next one
//	         as that lasts; late twice in a row
//	down     error, or no answer within silence      when retryAt has come, together with
//	                                                 the next one; else after all others
//
// A late answer, or none, says nothing about a server that has answered somebody
// else meanwhile: then it is the name that takes its time.
type health uint8

const (
	prompt health = iota
	slow
	down
)

// A server that is down is tried again by a real query, which does not wait for
// it, first after minRetry and then after twice as long each time.
const (
	minRetry = time.Second
	maxRetry = 10 * time.Second
)

// upstream is one resolver over one transport, and what is known about it.
type upstream struct {
	addr netip.AddrPort

	mu       sync.Mutex // guards what follows
	health   health
	late     int       // answers in a row that came after their turn
	answered time.Time // last
	failed   time.Time // last, of those that count
	backoff  time.Duration
	retryAt  time.Time
}

// tooLate is how many late answers in a row make a server slow. The first may be
// for a name that takes its time.
const tooLate = 2

// answer notes that an answer came to what was asked then.
func (u *upstream) answer(now, asked time.Time) {
	u.mu.Lock()
	defer u.mu.Unlock()
	switch {
	case now.Sub(asked) <= turn:
		u.health, u.late = prompt, 0
	case !u.answered.After(asked):
		u.health = prompt
		if u.late++; u.late >= tooLate {
			u.health = slow
		}
	}
	u.answered, u.backoff = now, 0
}

// lag notes that a turn has passed without an answer.
func (u *upstream) lag(asked time.Time) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.health == prompt && !u.answered.After(asked) {
		u.health = slow
	}
}

// fail notes an error, or silence since asked, unless the server answered somebody
// else meanwhile. Of many queries on their way together the first failure counts.
func (u *upstream) fail(now, asked time.Time) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.answered.After(asked) || u.health == down && asked.Before(u.failed) {
		return
	}
	u.health, u.failed = down, now
	u.backoff = min(max(minRetry, 2*u.backoff), maxRetry)
	u.retryAt = now.Add(u.backoff)
}

// answeredSince reports whether the server has answered anybody since then.
func (u *upstream) answeredSince(then time.Time) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.answered.After(then)
}

// claim returns the present health. Of the queries that find the server down and
// due to be tried again, one is told so.
func (u *upstream) claim(now time.Time) (h health, retry bool) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.health == down && !now.Before(u.retryAt) {
		u.retryAt = now.Add(max(u.backoff, silence))
		return down, true
	}
	return u.health, false
}

// candidate is one server in the plan of one query.
type candidate struct {
	*upstream
	turn    time.Duration // until the next candidate is asked too
	trusted bool          // a later one's negative answer waits for it
	first   bool          // nobody before it could know better
}

// upstreams are the servers of one resolv.conf over one transport. A new list of
// servers, or another network, starts with a clean slate.
type upstreams struct {
	own []portolan.Pair // our own addresses: asking these would be a loop

	mu      sync.Mutex // guards what follows
	servers []netip.AddrPort
	network uint64
	list    []*upstream
	begin   int // of rotation
}

// plan orders the servers for one query.
func (u *upstreams) plan(now time.Time, names *system.NameConfig) []candidate {
	list := u.rotated(names)
	plan := make([]candidate, 0, len(list))
	var last []candidate
	for i, server := range list {
		first := i == 0 || names.Resolver.Rotate
		switch h, retry := server.claim(now); {
		case h == prompt:
			plan = append(plan, candidate{server, turn, true, first})
		case h == slow:
			plan = append(plan, candidate{server, 0, true, first})
		case retry:
			plan = append(plan, candidate{server, 0, false, first})
		default:
			last = append(last, candidate{server, 0, false, first})
		}
	}
	return append(plan, last...)
}

// rotated returns the list for these names; with rotate each call begins with
// the next one.
func (u *upstreams) rotated(names *system.NameConfig) []*upstream {
	u.mu.Lock()
	defer u.mu.Unlock()
	servers := names.Resolver.Servers
	if u.network != names.Network || !slices.Equal(u.servers, servers) {
		u.servers, u.network, u.list = servers, names.Network, nil
		for _, addr := range servers {
			if !slices.ContainsFunc(u.own, func(p portolan.Pair) bool { return p.Has(addr.Addr()) }) {
				u.list = append(u.list, &upstream{addr: addr})
			}
		}
	}
	if !names.Resolver.Rotate || len(u.list) == 0 {
		return u.list
	}
	u.begin = (u.begin + 1) % len(u.list)
	return append(slices.Clone(u.list[u.begin:]), u.list[:u.begin]...)
}
