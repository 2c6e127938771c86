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
	bounds   func() Bounds

	mu      sync.Mutex // guards the rest
	all     int
	network map[netip.Prefix]int // no zero entries
	source  map[netip.Addr]int   // no zero entries
}

// NewLimit returns a Limit whose places are all free. A nil networks puts all
// sources into one network.
func NewLimit(bounds Bounds, networks *Networks) *Limit {
	return NewVaryingLimit(func() Bounds { return bounds }, networks)
}

// NewVaryingLimit is NewLimit with bounds that are asked for whenever somebody
// enters. Who holds a place keeps it.
func NewVaryingLimit(bounds func() Bounds, networks *Networks) *Limit {
	return &Limit{bounds: bounds, networks: networks, network: map[netip.Prefix]int{}, source: map[netip.Addr]int{}}
}

// Place is what Enter gave and Leave takes back, once.
type Place struct {
	source  netip.Addr
	network netip.Prefix
}

// Enter takes a place for source, or reports that it gets none.
func (l *Limit) Enter(source netip.Addr) (Place, bool) {
	p, bounds := Place{source, l.networks.Of(source)}, l.bounds()
	l.mu.Lock()
	defer l.mu.Unlock()
	if reached(l.all, bounds.All) || l.crowdedLocked(p, bounds) {
		return Place{}, false
	}
	l.all++
	l.network[p.network]++
	l.source[source]++
	return p, true
}

// Crowded reports that source or its network holds as many places as it may: no
// place that another gives back would be its.
func (l *Limit) Crowded(source netip.Addr) bool {
	p, bounds := Place{source, l.networks.Of(source)}, l.bounds()
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.crowdedLocked(p, bounds)
}

func (l *Limit) crowdedLocked(p Place, bounds Bounds) bool {
	return reached(l.network[p.network], bounds.Network) || reached(l.source[p.source], bounds.Source)
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
