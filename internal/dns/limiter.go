package dns

import (
	"net/netip"
	"sync"
)

// limiter bounds how much is going on in total and for each client, so that one
// container can't starve the others.
type limiter struct {
	total, each int

	mu     sync.Mutex // guards what follows
	sum    int
	counts map[netip.Addr]int
}

func newLimiter(total, each int) *limiter {
	return &limiter{total: total, each: each, counts: make(map[netip.Addr]int)}
}

// acquire takes one place for client, or reports that there is none.
func (l *limiter) acquire(client netip.Addr) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.sum >= l.total || l.counts[client] >= l.each {
		return false
	}
	l.sum++
	l.counts[client]++
	return true
}

// release gives a place back.
func (l *limiter) release(client netip.Addr) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.sum--
	if l.counts[client]--; l.counts[client] == 0 {
		delete(l.counts, client)
	}
}
