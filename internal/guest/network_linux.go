package guest

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/portolan-net/portolan/internal/portolan"
	"github.com/portolan-net/portolan/internal/spec"
)

// linkName is the machine's end of the link to the router.
const linkName = "eth0"

// sysctls of the machine's network namespace (kernel, ip-sysctl.rst).
var sysctls = []struct{ key, value, why string }{
	{"net/ipv4/ip_forward", "1", "containers are routed; dockerd sets FORWARD to DROP when it switches this on itself"},
	{"net/ipv6/conf/all/forwarding", "1", "the same for IPv6"},
	{"net/ipv6/conf/default/forwarding", "1", "the same for links that come later"},
	{"net/ipv4/ip_nonlocal_bind", "1", "the engine binds published ports on addresses that only the host has"},
	{"net/ipv6/ip_nonlocal_bind", "1", "the same for IPv6"},
	{"net/ipv6/conf/eth0/accept_ra", "0", "the router never advertises; a container on macvlan could"},
	{"net/ipv4/conf/eth0/accept_redirects", "0", "nobody on the link may change routes"},
	{"net/ipv4/conf/all/accept_redirects", "0", "the kernel takes the OR of the two"},
	{"net/ipv6/conf/eth0/accept_redirects", "0", "the same for IPv6"},
	{"net/ipv4/conf/eth0/send_redirects", "0", "packets are never sent back where they came from"},
	{"net/ipv4/conf/all/send_redirects", "0", "the kernel takes the OR of the two"},
}

// SetupNetwork prepares the machine's network namespace for the engine. It may
// be repeated.
func SetupNetwork(cfg spec.Machine) error {
	for _, s := range sysctls {
		err := os.WriteFile(filepath.Join("/proc/sys", s.key), []byte(s.value), 0)
		if err != nil && !errors.Is(err, fs.ErrNotExist) { // absent without IPv6
			return fmt.Errorf("set %s (%s): %w", s.key, s.why, err)
		}
	}
	if err := openPing(cfg.Rootless); err != nil {
		return err
	}
	if err := ReserveHostRoutes(cfg.Link, cfg.HostRoutes); err != nil {
		return err
	}
	if err := installFirewall(cfg.Link); err != nil {
		return fmt.Errorf("install firewall table: %w", err)
	}
	return nil
}

// openPing lets every group of the machine ping in its own network; containers
// have a setting of their own. A user namespace knows fewer groups.
func openPing(rootless bool) error {
	last := 1<<31 - 1
	if rootless {
		text, err := os.ReadFile("/proc/self/gid_map")
		if err != nil {
			return err
		}
		for line := range strings.Lines(string(text)) {
			var inside, outside, count int
			if _, err := fmt.Sscan(line, &inside, &outside, &count); err != nil {
				return fmt.Errorf("read group map: %w", err)
			}
			last = inside + count - 1
		}
	}
	if err := os.WriteFile("/proc/sys/net/ipv4/ping_group_range", fmt.Appendf(nil, "0 %d", last), 0); err != nil {
		return fmt.Errorf("open ping_group_range: %w", err)
	}
	return nil
}

// Metrics of the two routes that stand for one network of the host's.
const (
	metricUsed = 1    // carries the traffic, by the router
	metricSeen = 4000 // on-link and never used: dockerd skips subnets that it sees on a link
)

// ReserveHostRoutes keeps the engine from choosing a network that the host
// reaches, in place of those of before: dockerd takes no subnet that overlaps an
// on-link route. Where the machine has a network already, that goes on.
func ReserveHostRoutes(link portolan.Link, ofHost []netip.Prefix) error {
	eth0, err := netlink.LinkByName(linkName)
	if err != nil {
		return fmt.Errorf("find %s: %w", linkName, err)
	}
	if err := freeRoutes(eth0, ofHost); err != nil {
		return err
	}
	own, err := networks()
	if err != nil {
		return err
	}
	for _, prefix := range ofHost {
		if prefix.Bits() == 0 || slices.ContainsFunc(own, prefix.Overlaps) {
			continue
		}
		dst := &net.IPNet{IP: prefix.Addr().AsSlice(), Mask: net.CIDRMask(prefix.Bits(), prefix.Addr().BitLen())}
		gateway := link.Gateway().For(prefix.Addr()).AsSlice()
		routes := []netlink.Route{
			{Dst: dst, Gw: gateway, LinkIndex: eth0.Attrs().Index, Priority: metricUsed},
			{Dst: dst, LinkIndex: eth0.Attrs().Index, Priority: metricSeen, Scope: unix.RT_SCOPE_LINK},
		}
		for _, route := range routes {
			if err := netlink.RouteReplace(&route); err != nil {
				return fmt.Errorf("reserve network %s of the host: %w", prefix, err)
			}
		}
	}
	return nil
}

// freeRoutes removes the reservations of networks that are not among these.
func freeRoutes(eth0 netlink.Link, networks []netip.Prefix) error {
	routes, err := netlink.RouteList(eth0, netlink.FAMILY_ALL)
	if err != nil {
		return fmt.Errorf("list routes of %s: %w", linkName, err)
	}
	for _, route := range routes {
		if route.Dst == nil || route.Priority != metricUsed && route.Priority != metricSeen {
			continue
		}
		addr, _ := netip.AddrFromSlice(route.Dst.IP)
		ones, _ := route.Dst.Mask.Size()
		if slices.Contains(networks, netip.PrefixFrom(addr.Unmap(), ones)) {
			continue
		}
		if err := netlink.RouteDel(&route); err != nil && !errors.Is(err, unix.ESRCH) {
			return fmt.Errorf("free network %s of the host: %w", route.Dst, err)
		}
	}
	return nil
}

// WatchNetworks reports the machine's networks, now and after each change:
// every prefix that one of its links has an address in, sorted. Those are the
// sources that may leave the machine.
func WatchNetworks(ctx context.Context, report func([]netip.Prefix), log *slog.Logger) error {
	updates := make(chan netlink.AddrUpdate, 64)
	done := make(chan struct{})
	defer close(done)
	err := netlink.AddrSubscribeWithOptions(updates, done, netlink.AddrSubscribeOptions{
		ErrorCallback: func(err error) { log.Warn("watch addresses", "err", err) },
	})
	if err != nil {
		return fmt.Errorf("watch addresses: %w", err)
	}
	var last []netip.Prefix
	for {
		now, err := networks()
		if err != nil {
			return err
		}
		if last == nil || !slices.Equal(last, now) {
			last = now
			report(now)
		}
		select {
		case <-ctx.Done():
			return nil
		case _, ok := <-updates:
			for drained := false; ok && !drained; { // a new bridge brings several
				select {
				case _, ok = <-updates:
				default:
					drained = true
				}
			}
			if !ok {
				return errors.New("watch addresses: the kernel closed the subscription")
			}
		}
	}
}

// networks lists the prefixes of all addresses except loopback's and link-local ones.
func networks() ([]netip.Prefix, error) {
	addrs, err := netlink.AddrList(nil, netlink.FAMILY_ALL)
	if err != nil {
		return nil, fmt.Errorf("list addresses: %w", err)
	}
	found := []netip.Prefix{}
	for _, a := range addrs {
		addr, ok := netip.AddrFromSlice(a.IP)
		if !ok || addr.IsLoopback() || addr.IsLinkLocalUnicast() {
			continue
		}
		ones, _ := a.Mask.Size()
		found = append(found, netip.PrefixFrom(addr.Unmap(), ones).Masked())
	}
	slices.SortFunc(found, netip.Prefix.Compare)
	return slices.Compact(found), nil
}
