package router

import (
	"fmt"
	"net"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/portolan-net/portolan/internal/portolan"
)

// Marks that the packet filter and the helper set, and what they lead to.
const (
	markLocal = 1 // to a socket of this namespace, whatever the destination
	markSlow  = 2 // into slow0
	markUDP6  = 3 // to the machine, in fragments of fragmentMTU
	// markForward: between host and machine, by table main; see connect_linux.go
	markForward = 4
)

// Routing tables and the preferences of their rules. The table "local" moves
// behind both: connections to the router's own addresses are held as well.
const (
	tableLocal = 101
	tableSlow  = 102
	tableUDP6  = 103
	prefLocal  = 10
	prefSlow   = 11
	prefUDP6   = 12
	prefKernel = 100
)

// setupRoutes adds the marks' tables and the way back to the machine. All
// container networks live behind the machine, so it is the default gateway.
func setupRoutes(link portolan.Link) error {
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return fmt.Errorf("find lo: %w", err)
	}
	slow, err := netlink.LinkByName(slowName)
	if err != nil {
		return fmt.Errorf("find %s: %w", slowName, err)
	}
	for _, everywhere := range []*net.IPNet{
		{IP: net.IPv4zero.To4(), Mask: net.CIDRMask(0, 32)},
		{IP: net.IPv6zero, Mask: net.CIDRMask(0, 128)},
	} {
		local := &netlink.Route{LinkIndex: lo.Attrs().Index, Dst: everywhere, Table: tableLocal, Type: unix.RTN_LOCAL, Scope: netlink.SCOPE_HOST}
		toSlow := &netlink.Route{LinkIndex: slow.Attrs().Index, Dst: everywhere, Table: tableSlow, Scope: netlink.SCOPE_LINK}
		for _, route := range []*netlink.Route{local, toSlow} {
			if err := netlink.RouteAdd(route); err != nil {
				return fmt.Errorf("add route %s to table %d: %w", everywhere, route.Table, err)
			}
		}
	}
	for _, family := range []int{unix.AF_INET, unix.AF_INET6} {
		if err := setupPolicy(family); err != nil {
			return err
		}
	}
	here, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return fmt.Errorf("open netlink: %w", err)
	}
	defer here.Close()
	if err := addRule(unix.AF_INET6, prefUDP6, tableUDP6, markUDP6); err != nil {
		return err
	}
	return routeMachine(here, link)
}

// routeMachine sets the way back to the machine, in table main and, with an MTU,
// in that of marked datagrams.
func routeMachine(here *netlink.Handle, link portolan.Link) error {
	if err := setDefaults(here, linkName, link.Machine()); err != nil {
		return err
	}
	dev, err := here.LinkByName(linkName)
	if err != nil {
		return fmt.Errorf("find %s: %w", linkName, err)
	}
	before, err := here.RouteListFiltered(unix.AF_INET6, &netlink.Route{Table: tableUDP6}, netlink.RT_FILTER_TABLE)
	if err != nil {
		return fmt.Errorf("list table %d: %w", tableUDP6, err)
	}
	for _, route := range before {
		if err := here.RouteDel(&route); err != nil {
			return fmt.Errorf("clear table %d: %w", tableUDP6, err)
		}
	}
	onLink := &net.IPNet{IP: link.V6.Addr().AsSlice(), Mask: net.CIDRMask(link.V6.Bits(), 128)}
	for _, route := range []*netlink.Route{
		{Dst: onLink, Scope: netlink.SCOPE_LINK},
		{Gw: link.Machine().V6.AsSlice()},
	} {
		route.LinkIndex, route.Table, route.MTU = dev.Attrs().Index, tableUDP6, fragmentMTU
		if err := here.RouteAdd(route); err != nil {
			return fmt.Errorf("add route to table %d: %w", tableUDP6, err)
		}
	}
	return nil
}

func addRule(family, pref, table int, mark uint32) error {
	rule := netlink.NewRule()
	rule.Family, rule.Priority, rule.Table, rule.Mark = family, pref, table, mark
	if err := netlink.RuleAdd(rule); err != nil {
		return fmt.Errorf("add rule %d for table %d: %w", pref, table, err)
	}
	return nil
}

// setupPolicy adds one family's rules. The new rule for "local" stands before
// the kernel's own goes.
func setupPolicy(family int) error {
	for _, r := range []struct {
		pref, table int
		mark        uint32
	}{
		{prefLocal, tableLocal, markLocal},
		{prefSlow, tableSlow, markSlow},
		{prefKernel, unix.RT_TABLE_LOCAL, 0},
	} {
		if err := addRule(family, r.pref, r.table, r.mark); err != nil {
			return err
		}
	}
	kernel := netlink.NewRule()
	kernel.Family, kernel.Priority, kernel.Table = family, 0, unix.RT_TABLE_LOCAL
	if err := netlink.RuleDel(kernel); err != nil {
		return fmt.Errorf("remove the kernel's rule for table local: %w", err)
	}
	return nil
}
