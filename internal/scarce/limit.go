// Package scarce divides what all containers need and a computer has little of:
// connections, dials, queries, descriptors. One container, or one network whose
// containers forge each other's addresses, must not take what others need. It
// also says how often a shortage is worth a line in the log. Everything that
// carries packets may import it.
package scarce

import (
	"net/netip"
	"sync"
)

// Bounds are the most places that all together, one network and one source
// address may hold at a time. A bound of 0 is none.
type Bounds struct{ All, Network, Source int }

// Limit counts who holds how many places. It is safe for concurrent use.
type Limit struct {
	networks *Networks

	mu      sync.Mutex // guards the rest
	bounds  Bounds
	all     int
	network map[netip.Prefix]int // no zero entries
	source  map[netip.Addr]int   // no zero entries
}

// NewLimit returns a Limit whose places are all free. A nil networks puts all
// sources into one network.
func NewLimit(bounds Bounds, networks *Networks) *Limit {
	return &Limit{bounds: bounds, networks: networks, network: map[netip.Prefix]int{}, source: map[netip.Addr]int{}}
}

// SetBounds replaces the bounds. Who holds a place keeps it.
func (l *Limit) SetBounds(bounds Bounds) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.bounds = bounds
}

// Place is what Enter gave and Leave takes back, once.
type Place struct {
	source  netip.Addr
	network netip.Prefix
}

// Enter takes a place for source, or reports that it gets none.
func (l *Limit) Enter(source netip.Addr) (Place, bool) {
	p := Place{source, l.networks.Of(source)}
	l.mu.Lock()
	defer l.mu.Unlock()
	if reached(l.all, l.bounds.All) || reached(l.network[p.network], l.bounds.Network) || reached(l.source[source], l.bounds.Source) {
		return Place{}, false
	}
	l.all++
	l.network[p.network]++
	l.source[source]++
	return p, true
}

func reached(count, bound int) bool { return bound > 0 && count >= bound }

// Leave gives a place back.
func (l *Limit) Leave(p Place) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.all--
	if l.network[p.network]--; l.network[p.network] == 0 {
		delete(l.network, p.network)
	}
	if l.source[p.source]--; l.source[p.source] == 0 {
		delete(l.source, p.source)
	}
}

// Held is the number of places that are taken.
func (l *Limit) Held() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.all
}
