package daemon

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/portolan-net/portolan/internal/connect"
	"github.com/portolan-net/portolan/internal/portolan"
	"github.com/portolan-net/portolan/internal/profile"
	"github.com/portolan-net/portolan/internal/settings"
)

// hostRoutes lists the networks that the host has routes to, without default
// routes, link-local and multicast ones, and without those that lead to the
// profile's own machine.
func hostRoutes(own profile.Profile) ([]netip.Prefix, error) {
	index, _, err := connect.Find(own)
	if err != nil {
		return nil, err
	}
	_, routes, err := connect.HostRoutes(index)
	if err != nil {
		return nil, err
	}
	var found []netip.Prefix
	for _, route := range routes {
		found = append(found, route.Prefix)
	}
	slices.SortFunc(found, netip.Prefix.Compare)
	return slices.Compact(found), nil
}

// chooseLink returns the default link, or the first free neighbour of it when
// the host has routes that overlap: 192.168.66.0/24 and so on. A subnet that
// somebody chose is taken as it is; status names what it overlaps.
func chooseLink(v settings.Values, routes []netip.Prefix) (portolan.Link, error) {
	link := v.Link
	free := func(p netip.Prefix) bool {
		return v.FixedV4 && p == v.Link.V4 || v.FixedV6 && p == v.Link.V6 || !slices.ContainsFunc(routes, p.Overlaps)
	}
	v4, v6 := link.V4.Addr().As4(), link.V6.Addr().As16()
	const tries = 100
	for range tries {
		link.V4 = netip.PrefixFrom(netip.AddrFrom4(v4), link.V4.Bits())
		if free(link.V4) {
			break
		}
		v4[2]++
	}
	for range tries {
		link.V6 = netip.PrefixFrom(netip.AddrFrom16(v6), link.V6.Bits())
		if free(link.V6) {
			break
		}
		v6[7]++
	}
	if !free(link.V4) || !free(link.V6) {
		return link, fmt.Errorf("choose the machine's network: the host has routes to all of %d candidates from %s on", tries, portolan.DefaultLink().V4)
	}
	return link, nil
}
