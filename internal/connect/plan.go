package connect

import (
	"fmt"
	"net/netip"
	"slices"
)

// Route is one of the host's routes.
type Route struct {
	Prefix    netip.Prefix
	Interface string
	Table     int // 0 for the main one
}

// String names it as people look for it: ip route show table 100.
func (r Route) String() string {
	text := fmt.Sprintf("%s on %s", r.Prefix, r.Interface)
	if r.Table != 0 {
		text += fmt.Sprintf(" in table %d", r.Table)
	}
	return text
}

// Refusal is a network of the machine that the host can't be connected to.
type Refusal struct {
	Network netip.Prefix
	Reason  string // "this host has a route to ..."
}

// String names both.
func (r Refusal) String() string { return fmt.Sprintf("%s: %s", r.Network, r.Reason) }

// Plan divides the machine's networks into those that the host gets routes to
// and those that it must not: what overlaps a route of the host's, so that
// nothing which the host reaches today is taken away from it, and what is not
// private, so that no machine can take over addresses of the internet.
func Plan(networks []netip.Prefix, host []Route) (use []netip.Prefix, refused []Refusal) {
	for _, network := range networks {
		i := slices.IndexFunc(host, func(r Route) bool { return !covers(r.Prefix) && r.Prefix.Overlaps(network) })
		switch {
		case i >= 0:
			refused = append(refused, Refusal{network, fmt.Sprintf("this host has a route to %s", host[i])})
		case !private(network):
			refused = append(refused, Refusal{network, "it is no private network (RFC 1918, RFC 4193, 100.64.0.0/10)"})
		default:
			use = append(use, network)
		}
	}
	return use, refused
}

// covers reports default routes, also in the two or four pieces in which VPNs
// write them to be more specific than the one that was there.
func covers(p netip.Prefix) bool {
	const widest4, widest6 = 8, 7 // narrower ones are somebody's network: 10.0.0.0/8, fc00::/7
	return p.Addr().Is4() && p.Bits() < widest4 || p.Addr().Is6() && p.Bits() < widest6
}

// private reports whether the whole network is for use within a site.
func private(network netip.Prefix) bool {
	for _, block := range []string{"10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "fc00::/7"} {
		p := netip.MustParsePrefix(block)
		if p.Contains(network.Addr()) && network.Bits() >= p.Bits() {
			return true
		}
	}
	return false
}
