package daemon

import (
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/portolan-net/portolan/internal/dns"
	"github.com/portolan-net/portolan/internal/settings"
)

// absence says since when the host can't use a family, and what the kernel says
// about it. The zero absence is none.
type absence struct {
	since  time.Time
	reason string
}

// absences are those of both families.
type absences struct{ v4, v6 absence }

// after is the absence that is found after before was.
func after(before absence, reason string, now time.Time) absence {
	switch {
	case reason == "":
		return absence{}
	case before.reason == "":
		return absence{now, reason}
	}
	return absence{before.since, reason}
}

// unusable says why packets to dst would not leave with a source that others can
// answer; nothing when they would.
func unusable(dst net.IP) string {
	routes, err := netlink.RouteGet(dst)
	switch {
	case err != nil:
		return err.Error()
	case len(routes) == 0:
		return "no route"
	case routes[0].Type != unix.RTN_UNICAST:
		return "the route there is one that leads nowhere"
	}
	src, ok := netip.AddrFromSlice(routes[0].Src)
	switch {
	case !ok:
		return "no address to send from"
	case src.IsLinkLocalUnicast(), src.IsLoopback():
		return fmt.Sprintf("its only address there is %s, which others can't answer", src)
	}
	return ""
}

// whyHidden says what made the filter hide the families that it did.
func (d *daemon) whyHidden(e dns.Explanation) (reasons []string) {
	v, found := d.values.Load(), d.families.absent()
	for _, family := range []struct {
		name, inhibition string
		hidden, carried  bool
		absence          absence
	}{
		{"IPv4", "ipv4", e.HiddenA, v.Mode.IPv4(), found.v4},
		{"IPv6", "ipv6", e.HiddenAAAA, v.Mode.IPv6(), found.v6},
	} {
		switch {
		case !family.hidden:
		case !family.carried:
			reasons = append(reasons, fmt.Sprintf("%s is %s: containers have no %s", settings.KeyMode, v.Mode, family.name))
		case v.Inhibition == family.inhibition:
			reasons = append(reasons, fmt.Sprintf("%s is %s", settings.KeyInhibition, v.Inhibition))
		case v.Inhibition == "auto" && family.absence.reason != "":
			reasons = append(reasons, fmt.Sprintf("%s is %s, and this host has had no route to the internet over %s for %s: %s",
				settings.KeyInhibition, v.Inhibition, family.name, time.Since(family.absence.since).Round(time.Second), family.absence.reason))
		}
	}
	if e.NoAAAA {
		reasons = append(reasons, "this host's /etc/resolv.conf has the option no-aaaa")
	}
	return reasons
}
