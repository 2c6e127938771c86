package daemon

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync/atomic"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/portolan-net/portolan/internal/profile"
)

// families are the IP versions that the host can really use.
type families struct{ v4, v6 bool }

// hostFamilies follows them, and the host's routes.
type hostFamilies struct {
	families atomic.Pointer[families]
	routes   atomic.Pointer[[]netip.Prefix]
}

func (h *hostFamilies) now() families {
	if f := h.families.Load(); f != nil {
		return *f
	}
	return families{true, true}
}

func (h *hostFamilies) hostRoutes() []netip.Prefix {
	if r := h.routes.Load(); r != nil {
		return *r
	}
	return nil
}

// Addresses of the internet, to which a host that uses a family has a route: a
// name server of the root. Nothing is ever sent there.
var (
	somewhere4 = net.IPv4(198, 41, 0, 4)
	somewhere6 = net.ParseIP("2001:503:ba3e::2:30")
)

// look asks the kernel how it would send, with all its rules and tables, so that
// a VPN's are counted.
func (h *hostFamilies) look(own profile.Profile, log *slog.Logger) {
	found := families{v4: routed(somewhere4), v6: routed(somewhere6)}
	if before := h.families.Swap(&found); before == nil || *before != found {
		log.Info("address families of the host", "ipv4", found.v4, "ipv6", found.v6)
	}
	if routes, err := hostRoutes(own); err == nil {
		h.routes.Store(&routes)
	}
}

// routed reports whether packets to dst would leave with a source that others
// can answer.
func routed(dst net.IP) bool {
	routes, err := netlink.RouteGet(dst)
	if err != nil || len(routes) == 0 || routes[0].Type != unix.RTN_UNICAST {
		return false
	}
	src, ok := netip.AddrFromSlice(routes[0].Src)
	return ok && !src.IsLinkLocalUnicast() && !src.IsLoopback()
}

// followAgain is the pause before another subscription, in which many changes at
// once are mostly over.
const followAgain = 200 * time.Millisecond

// follow looks again whenever a route or an address changes. own is the profile
// whose connection is left out.
func (h *hostFamilies) follow(ctx context.Context, own profile.Profile, log *slog.Logger) error {
	for {
		if err := h.followSubscribed(ctx, own, log); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(followAgain):
		}
	}
}

// followSubscribed is follow until ctx ends, or until changes were lost: thousands
// of routes at once, a VPN's say, are more than the kernel keeps for a reader.
func (h *hostFamilies) followSubscribed(ctx context.Context, own profile.Profile, log *slog.Logger) error {
	routes, addrs := make(chan netlink.RouteUpdate, 64), make(chan netlink.AddrUpdate, 64)
	done := make(chan struct{})
	defer close(done)
	told := func(err error) { log.Debug("watch routes", "err", err) }
	if err := netlink.RouteSubscribeWithOptions(routes, done, netlink.RouteSubscribeOptions{ErrorCallback: told}); err != nil {
		return fmt.Errorf("watch the host's routes: %w", err)
	}
	if err := netlink.AddrSubscribeWithOptions(addrs, done, netlink.AddrSubscribeOptions{ErrorCallback: told}); err != nil {
		return fmt.Errorf("watch the host's addresses: %w", err)
	}
	for {
		h.look(own, log)
		var open bool
		select {
		case <-ctx.Done():
			return nil
		case _, open = <-routes:
		case _, open = <-addrs:
		}
		if !open {
			return nil
		}
	}
}
