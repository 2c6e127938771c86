package dns

import (
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/portolan-net/portolan/internal/portolan"
)

// health of one resolver of the host over one transport.
//
//	state    becomes so                             asked
//	prompt   at first; answered within hedgeDelay   in its turn
//	slow     let hedgeDelay pass; answered late     together with the next one
//	down     error, or no answer within silence     when retryAt has come, together with
//	                                                the next one; else after all others
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
	answered time.Time // last
	failed   time.Time // last, of those that count
	backoff  time.Duration
	retryAt  time.Time
}

// answer notes that an answer came after took.
func (u *upstream) answer(now time.Time, took time.Duration) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.answered, u.backoff, u.health = now, 0, prompt
	if took > hedgeDelay {
		u.health = slow
	}
}

// lag notes that hedgeDelay passed without an answer.
func (u *upstream) lag() {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.health == prompt {
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
	hedge   time.Duration // until the next candidate is asked too
	trusted bool          // a later one's negative answer waits for it a while
}

// upstreams are the servers of one resolv.conf over one transport. A new list of
// servers starts with a clean slate: the host has moved to another network.
type upstreams struct {
	own []portolan.Pair // our own addresses: asking these would be a loop

	mu      sync.Mutex // guards what follows
	servers []netip.AddrPort
	list    []*upstream
	turn    int // of rotation
}

// plan orders the servers for one query.
func (u *upstreams) plan(now time.Time, servers []netip.AddrPort, rotate bool) []candidate {
	list := u.rotated(servers, rotate)
	plan := make([]candidate, 0, len(list))
	var last []candidate
	for _, server := range list {
		switch h, retry := server.claim(now); {
		case h == prompt:
			plan = append(plan, candidate{server, hedgeDelay, true})
		case h == slow:
			plan = append(plan, candidate{server, 0, true})
		case retry:
			plan = append(plan, candidate{server, 0, false})
		default:
			last = append(last, candidate{server, 0, false})
		}
	}
	return append(plan, last...)
}

// rotated returns the list for these servers; with rotate each call begins with
// the next one.
func (u *upstreams) rotated(servers []netip.AddrPort, rotate bool) []*upstream {
	u.mu.Lock()
	defer u.mu.Unlock()
	if !slices.Equal(u.servers, servers) {
		u.servers, u.list = servers, nil
		for _, addr := range servers {
			if !slices.ContainsFunc(u.own, func(p portolan.Pair) bool { return p.Has(addr.Addr()) }) {
				u.list = append(u.list, &upstream{addr: addr})
			}
		}
	}
	if !rotate || len(u.list) == 0 {
		return u.list
	}
	u.turn = (u.turn + 1) % len(u.list)
	return append(slices.Clone(u.list[u.turn:]), u.list[:u.turn]...)
}
