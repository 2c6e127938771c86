package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/portolan-net/portolan/internal/profile"
)

// families are the IP versions that the host can really use.
type families struct{ v4, v6 bool }

// hostFamilies follows them, and the host's routes and addresses.
type hostFamilies struct {
	families atomic.Pointer[families]
	absences atomic.Pointer[absences]
	routes   atomic.Pointer[[]netip.Prefix]
	addrs    atomic.Pointer[hostAddresses]
}

func (h *hostFamilies) now() families {
	if f := h.families.Load(); f != nil {
		return *f
	}
	return families{true, true}
}

// absent tells why families are not used, and since when.
func (h *hostFamilies) absent() absences {
	if a := h.absences.Load(); a != nil {
		return *a
	}
	return absences{}
}

func (h *hostFamilies) hostRoutes() []netip.Prefix {
	if r := h.routes.Load(); r != nil {
		return *r
	}
	return nil
}

// has reports whether an address is the host's own.
func (h *hostFamilies) has(addr netip.Addr) bool {
	addrs := h.addrs.Load()
	if addrs == nil {
		return false
	}
	_, own := addrs.at[addr.WithZone("")]
	return own
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
	before, now := h.absent(), time.Now()
	lacks := absences{after(before.v4, unusable(somewhere4), now), after(before.v6, unusable(somewhere6), now)}
	h.absences.Store(&lacks)
	found := families{v4: lacks.v4 == absence{}, v6: lacks.v6 == absence{}}
	if before := h.families.Swap(&found); before == nil || *before != found {
		log.Info("address families of the host", "ipv4", found.v4, "ipv6", found.v6)
	}
	if routes, err := hostRoutes(own); err == nil {
		h.routes.Store(&routes)
	}
	if addrs, err := lookAtAddresses(); err == nil {
		h.addrs.Store(&addrs)
	}
}

// routingGroups are the kernel's news of all that can change how it sends
// (rtnetlink(7)). An interface that goes down takes IPv4 routes along without a
// word about them.
func routingGroups() []uint {
	return []uint{
		unix.RTNLGRP_LINK, unix.RTNLGRP_IPV4_IFADDR, unix.RTNLGRP_IPV6_IFADDR,
		unix.RTNLGRP_IPV4_ROUTE, unix.RTNLGRP_IPV6_ROUTE, unix.RTNLGRP_IPV4_RULE, unix.RTNLGRP_IPV6_RULE,
	}
}

const (
	// followPause gathers the changes that come together.
	followPause = 20 * time.Millisecond
	// followAgain is the pause before another subscription.
	followAgain = 200 * time.Millisecond
)

// follow looks again, and then calls changed, whenever the host's interfaces,
// addresses, routes or rules have become others. own is the profile whose connection is left
// out.
func (h *hostFamilies) follow(ctx context.Context, own profile.Profile, changed func(), log *slog.Logger) error {
	for {
		if err := h.followSubscribed(ctx, own, changed, log); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(followAgain):
		}
	}
}

// followSubscribed is follow until ctx ends, or the kernel tells no more.
func (h *hostFamilies) followSubscribed(ctx context.Context, own profile.Profile, changed func(), log *slog.Logger) error {
	news, err := nl.Subscribe(unix.NETLINK_ROUTE, routingGroups()...)
	if err != nil {
		return fmt.Errorf("watch the host's network: %w", err)
	}
	heard := make(chan struct{}, 1)
	var hearing sync.WaitGroup
	hearing.Go(func() { hear(news, heard, log) })
	defer hearing.Wait()
	defer news.Close()
	var known networkState
	for open := true; open; {
		// Before the look, so that what changes meanwhile is looked at again.
		state, err := lookAtNetwork()
		if err != nil {
			log.Debug("every news is taken for a change", "err", err)
		}
		if err != nil || state != known {
			h.look(own, log)
			changed()
		}
		known = state
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(followPause):
		}
		select {
		case <-ctx.Done():
			return nil
		case _, open = <-heard:
		}
	}
	return nil
}

// hear says that there are news, and closes heard when there will be no more. Of
// more than the kernel keeps for a reader, a VPN's thousands of routes say, some
// are lost, which is news, too.
func hear(news *nl.NetlinkSocket, heard chan<- struct{}, log *slog.Logger) {
	defer close(heard)
	for {
		if _, _, err := news.Receive(); err != nil && !errors.Is(err, unix.ENOBUFS) {
			log.Debug("watch the host's network", "err", err)
			return
		}
		select {
		case heard <- struct{}{}:
		default: // there is one to come
		}
	}
}
