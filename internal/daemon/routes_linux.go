package daemon

import (
	"errors"
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

// chooseLink returns the default link, or the first free neighbour of it where it
// overlaps what is taken: 192.168.66.0/24 and so on. Where the machine has such a
// neighbour already, and it is free, it stays there. A subnet that somebody chose is
// taken as it is; status names what it overlaps.
func chooseLink(v settings.Values, present portolan.Link, taken []netip.Prefix) (portolan.Link, error) {
	link := v.Link
	var err4, err6 error
	if !v.FixedV4 {
		link.V4, err4 = chooseSubnet(v.Link.V4, present.V4, taken, nextV4)
	}
	if !v.FixedV6 {
		link.V6, err6 = chooseSubnet(v.Link.V6, present.V6, taken, nextV6)
	}
	return link, errors.Join(err4, err6)
}

func nextV4(subnet netip.Prefix) netip.Prefix {
	addr := subnet.Addr().As4()
	addr[2]++
	return netip.PrefixFrom(netip.AddrFrom4(addr), subnet.Bits())
}

func nextV6(subnet netip.Prefix) netip.Prefix {
	addr := subnet.Addr().As16()
	addr[7]++
	return netip.PrefixFrom(netip.AddrFrom16(addr), subnet.Bits())
}

// subnetTries bounds the neighbours that are looked at.
const subnetTries = 100

// chooseSubnet returns the first of a subnet and its neighbours that is free, or
// present if that is one of them.
func chooseSubnet(first, present netip.Prefix, taken []netip.Prefix, next func(netip.Prefix) netip.Prefix) (netip.Prefix, error) {
	var free []netip.Prefix
	subnet := first
	for range subnetTries {
		if !slices.ContainsFunc(taken, subnet.Overlaps) {
			free = append(free, subnet)
		}
		subnet = next(subnet)
	}
	switch {
	case slices.Contains(free, present):
		return present, nil
	case len(free) == 0:
		return first, fmt.Errorf("choose the machine's network: all of %d candidates from %s on overlap networks of the host or the engine", subnetTries, first)
	}
	return free[0], nil
}
