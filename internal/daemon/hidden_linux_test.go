package daemon

import (
	"log/slog"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/portolan-net/portolan/internal/dns"
	"github.com/portolan-net/portolan/internal/portolan"
	"github.com/portolan-net/portolan/internal/profile"
	"github.com/portolan-net/portolan/internal/settings"
)

// What is hidden has the reason that made the filter hide it.
func TestWhyHidden(t *testing.T) {
	var d daemon
	found := absences{v6: absence{time.Now().Add(-90 * time.Second), "network is unreachable"}}
	d.families.absences.Store(&found)
	a, aaaa, both := dns.Explanation{HiddenA: true}, dns.Explanation{HiddenAAAA: true}, dns.Explanation{HiddenA: true, HiddenAAAA: true}
	for _, c := range []struct {
		mode       portolan.Mode
		inhibition string
		e          dns.Explanation
		want       string
	}{
		{portolan.DualStack, "ipv4", a, "dnsInhibition is ipv4"},
		{portolan.DualStack, "ipv6", aaaa, "dnsInhibition is ipv6"},
		{portolan.DualStack, "auto", aaaa, "dnsInhibition is auto, and this host has had no route to the internet over IPv6 for 1m30s: network is unreachable"},
		{portolan.IPv6Only, "auto", both, "defaultNetworkingMode is ipv6only: containers have no IPv4; dnsInhibition is auto, and this host has had no route to the internet over IPv6 for 1m30s: network is unreachable"},
		{portolan.DualStack, "none", dns.Explanation{}, ""},
		{portolan.DualStack, "none", dns.Explanation{HiddenAAAA: true, NoAAAA: true}, "this host's /etc/resolv.conf has the option no-aaaa"},
	} {
		d.values.Store(&settings.Values{Mode: c.mode, Inhibition: c.inhibition})
		if got := strings.Join(d.whyHidden(c.e), "; "); got != c.want {
			t.Errorf("%s, %s: %q, want %q", c.mode, c.inhibition, got, c.want)
		}
	}
}

// An absence lasts from the first look that finds it to the first that does not,
// and its reason is the latest.
func TestAbsenceIsWhatTheKernelSays(t *testing.T) {
	must := musts(t)
	link := lonelyHost(t)
	var h hostFamilies
	look := func() absences {
		h.look(profile.Profile{}, slog.New(slog.DiscardHandler))
		return h.absent()
	}
	first := look()
	if !strings.Contains(first.v6.reason, "unreachable") || first.v6.since.IsZero() {
		t.Errorf("without a route: %+v", first.v6)
	}
	all6 := &net.IPNet{IP: net.IPv6zero, Mask: net.CIDRMask(0, 128)}
	must(netlink.RouteAdd(&netlink.Route{LinkIndex: link.Index, Dst: all6}))
	if second := look(); !strings.Contains(second.v6.reason, "fe80::") || second.v6.since != first.v6.since {
		t.Errorf("with a route and a link-local address: %+v, since %s", second.v6, first.v6.since)
	}
	addr, err := netlink.ParseAddr("2001:db8::10/64")
	must(err)
	addr.Flags = unix.IFA_F_NODAD
	must(netlink.AddrAdd(link, addr))
	if third := look(); third.v6 != (absence{}) {
		t.Errorf("with an address: %+v", third.v6)
	}
}
