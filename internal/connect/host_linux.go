package connect

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/portolan-net/portolan/internal/portolan"
	"github.com/portolan-net/portolan/internal/profile"
	"github.com/portolan-net/portolan/internal/router"
)

// routeMTU is that of the engine's networks unless somebody chose another one:
// a datagram that is larger leaves the host in fragments, instead of being lost
// until the host has learned.
const routeMTU = 1500

// alias marks the host's end of a profile's veth (ip link show).
func alias(p profile.Profile) string { return "Portolan, " + p.RunDir }

// Find returns the index and name of the interface that connects the host to
// the profile's machine; 0 when it is not connected.
func Find(p profile.Profile) (index int, name string, err error) {
	links, err := netlink.LinkList()
	if err != nil {
		return 0, "", fmt.Errorf("list interfaces: %w", err)
	}
	for _, link := range links {
		if link.Type() == "veth" && link.Attrs().Alias == alias(p) {
			return link.Attrs().Index, link.Attrs().Name, nil
		}
	}
	return 0, "", nil
}

// HostRoutes lists the networks that the host has routes to, those through the
// interface named by index first, and then all others, in whichever table: rules
// (ip rule) that lead to one may come at any time. The local table repeats what
// the others say, and a throw route sends back to them.
func HostRoutes(index int) (own []netip.Prefix, others []Route, err error) {
	routes, err := netlink.RouteListFiltered(netlink.FAMILY_ALL, &netlink.Route{Table: unix.RT_TABLE_UNSPEC}, netlink.RT_FILTER_TABLE)
	if err != nil {
		return nil, nil, fmt.Errorf("list the host's routes: %w", err)
	}
	names := map[int]string{}
	for _, route := range routes {
		prefix, ok := destination(route)
		switch {
		case !ok || route.Table == unix.RT_TABLE_LOCAL || route.Type == unix.RTN_THROW:
		case index != 0 && route.LinkIndex == index:
			if route.Table == unix.RT_TABLE_MAIN { // a copy elsewhere is somebody's who copies all
				own = append(own, prefix)
			}
		default:
			if _, known := names[route.LinkIndex]; !known {
				names[route.LinkIndex] = interfaceName(route.LinkIndex)
			}
			others = append(others, Route{Prefix: prefix, Interface: names[route.LinkIndex], Table: otherTable(route.Table)})
		}
	}
	slices.SortFunc(own, netip.Prefix.Compare)
	return slices.Compact(own), others, nil
}

// otherTable is 0 for the table that a host without rules of its own uses.
func otherTable(table int) int {
	if table == unix.RT_TABLE_MAIN {
		return 0
	}
	return table
}

func destination(route netlink.Route) (netip.Prefix, bool) {
	if route.Dst == nil {
		return netip.Prefix{}, false
	}
	addr, ok := netip.AddrFromSlice(route.Dst.IP)
	ones, _ := route.Dst.Mask.Size()
	addr = addr.Unmap()
	if !ok || ones == 0 || addr.IsLinkLocalUnicast() || addr.IsMulticast() || addr.IsLoopback() {
		return netip.Prefix{}, false
	}
	return netip.PrefixFrom(addr, ones).Masked(), true
}

func interfaceName(index int) string {
	if link, err := netlink.LinkByIndex(index); err == nil {
		return link.Attrs().Name
	}
	return "no interface" // a blackhole, or one that has just gone
}

// hostEnd is the host's end of the veth.
type hostEnd struct {
	index    int
	name     string
	own      portolan.Pair
	gateway  portolan.Pair
	families []netip.Addr // the addresses of own that the host can use
}

// addEnd makes the veth and the host's end of it ready, without routes. On an
// error nothing is left once outside is closed.
func addEnd(outside *router.Outside, p profile.Profile, link portolan.Link) (*hostEnd, error) {
	name, err := freeName()
	if err != nil {
		return nil, err
	}
	dev, err := outside.AddLink(name)
	if err != nil {
		return nil, err
	}
	const addrGenNone = 1 // no link-local address: the interface sends nothing by itself
	if err := errors.Join(netlink.LinkSetAlias(dev, alias(p)), netlink.LinkSetIP6AddrGenMode(dev, addrGenNone)); err != nil {
		return nil, fmt.Errorf("prepare %s: %w", name, err)
	}
	e := &hostEnd{index: dev.Attrs().Index, name: name, own: link.Outside(), gateway: link.Gateway()}
	e.families = []netip.Addr{e.own.V4}
	if hasIPv6(name) {
		e.families = append(e.families, e.own.V6)
	}
	for _, own := range e.families {
		addr := &netlink.Addr{
			IPNet: &net.IPNet{IP: own.AsSlice(), Mask: net.CIDRMask(own.BitLen(), own.BitLen())},
			Flags: unix.IFA_F_NODAD | unix.IFA_F_NOPREFIXROUTE,
		}
		if own.Is4() {
			addr.Flags = 0
		}
		if err := netlink.AddrAdd(dev, addr); err != nil {
			return nil, fmt.Errorf("add address %s to %s: %w", own, name, err)
		}
	}
	if err := e.endForwarding(); err != nil {
		return nil, err
	}
	if err := netlink.LinkSetUp(dev); err != nil {
		return nil, fmt.Errorf("set %s up: %w", name, err)
	}
	for _, own := range e.families {
		neigh := &netlink.Neigh{
			LinkIndex: e.index, State: netlink.NUD_PERMANENT, IP: e.gateway.For(own).AsSlice(), HardwareAddr: router.GatewayMAC(),
		}
		if err := netlink.NeighSet(neigh); err != nil {
			return nil, fmt.Errorf("fix neighbour %s on %s: %w", neigh.IP, name, err)
		}
	}
	return e, nil
}

// freeName is portolan0, or the next that no interface has.
func freeName() (string, error) {
	for i := range 100 {
		name := fmt.Sprintf("portolan%d", i)
		_, err := netlink.LinkByName(name)
		if _, none := errors.AsType[netlink.LinkNotFoundError](err); none {
			return name, nil
		}
		if err != nil {
			return "", fmt.Errorf("look for interface %s: %w", name, err)
		}
	}
	return "", errors.New("name the interface: portolan0 to portolan99 are taken; end a connection with: portolan disconnect")
}

// hasIPv6 reports whether an interface can have IPv6 addresses on this host.
func hasIPv6(name string) bool {
	text, err := os.ReadFile("/proc/sys/net/ipv6/conf/" + name + "/disable_ipv6")
	return err == nil && strings.TrimSpace(string(text)) == "0"
}

// steer gives the host routes to the machine's networks, as far as Plan allows,
// and takes away those to networks that are no more.
func (e *hostEnd) steer(networks []netip.Prefix) (use []netip.Prefix, refused []Refusal, err error) {
	have, others, err := HostRoutes(e.index)
	if err != nil {
		return nil, nil, err
	}
	use, refused = Plan(slices.DeleteFunc(slices.Clone(networks), func(p netip.Prefix) bool { return !e.speaks(p) }), others)
	for _, network := range have {
		if slices.Contains(use, network) {
			continue
		}
		if err := netlink.RouteDel(e.route(network)); err != nil && !errors.Is(err, unix.ESRCH) {
			return use, refused, fmt.Errorf("remove route to %s: %w", network, err)
		}
	}
	for _, network := range use {
		if slices.Contains(have, network) {
			continue
		}
		if err := netlink.RouteAdd(e.route(network)); err != nil {
			return use, refused, fmt.Errorf("add route to %s on %s: %w", network, e.name, err)
		}
	}
	return use, refused, nil
}

// speaks reports whether the end has an address of the network's family.
func (e *hostEnd) speaks(network netip.Prefix) bool {
	return slices.ContainsFunc(e.families, func(own netip.Addr) bool { return own.Is4() == network.Addr().Is4() })
}

func (e *hostEnd) route(network netip.Prefix) *netlink.Route {
	addr := network.Addr()
	return &netlink.Route{
		LinkIndex: e.index, MTU: routeMTU, Congctl: "reno", Flags: int(netlink.FLAG_ONLINK), // BBR's timers only cost on a link like this
		Dst: &net.IPNet{IP: addr.AsSlice(), Mask: net.CIDRMask(network.Bits(), addr.BitLen())},
		Gw:  e.gateway.For(addr).AsSlice(), Src: e.own.For(addr).AsSlice(),
	}
}

// remove takes the interface away, with all that hangs on it. When it is gone
// already that is no error.
func (e *hostEnd) remove() error {
	dev, err := netlink.LinkByIndex(e.index)
	if err == nil {
		err = netlink.LinkDel(dev)
	}
	if _, none := errors.AsType[netlink.LinkNotFoundError](err); none || errors.Is(err, unix.ENODEV) {
		return nil
	}
	return err
}
