package scarce

import (
	"net/netip"
	"slices"
	"sync/atomic"
)

// Networks tells which container network an address belongs to. Its zero value
// knows none, and so does nil. It is safe for concurrent use.
type Networks struct {
	known atomic.Pointer[[]netip.Prefix]
}

// Set replaces the networks.
func (n *Networks) Set(known []netip.Prefix) {
	known = slices.Clone(known)
	slices.SortFunc(known, func(a, b netip.Prefix) int { return b.Bits() - a.Bits() }) // the narrowest first
	n.known.Store(&known)
}

// elsewhere is the network of all addresses that are in none, of both families:
// most computers have one of each.
var elsewhere = netip.PrefixFrom(netip.IPv6Unspecified(), 0)

// Of returns the narrowest network that addr is in. All addresses that are in
// none share one, ::/0.
func (n *Networks) Of(addr netip.Addr) netip.Prefix {
	if n != nil {
		if known := n.known.Load(); known != nil {
			for _, p := range *known {
				if p.Contains(addr) {
					return p
				}
			}
		}
	}
	return elsewhere
}
