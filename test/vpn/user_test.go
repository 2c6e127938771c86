package vpn

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/portolan-net/portolan/internal/lab"
	"github.com/portolan-net/portolan/internal/stage"
	"github.com/portolan-net/portolan/internal/testimage"
)

// What a host decides by user, it decides for containers by the daemon's user.
func TestByUser(t *testing.T) {
	s := stage.UpUser(t)
	c := startCompany(t, s)
	startContainers(t, s)
	c.openServer(t, s)
	t.Run("policy routing", func(t *testing.T) { checkPolicyRouting(t, s, c) })
	t.Run("firewall", func(t *testing.T) { checkFirewall(t, s, c) })
}

// checkPolicyRouting: the VPN's routes are for the daemon's user alone.
func checkPolicyRouting(t *testing.T, s *stage.Stage, c *company) {
	before := openFlow(t, s, "before", s.Lab.Internet, lab.EmptyV6)
	// One table of its own, as in ip-rule(8); --route-noexec leaves routes to others.
	vpn := c.connect(t, s, "--route-noexec", "--dev", "tun9")
	host := s.Lab.Host
	for _, family := range []string{"-4", "-6"} {
		rule := []string{family, "rule", "add", "uidrange", s.User.Uid + "-" + s.User.Uid, "lookup", "99"}
		host.Run(t, "ip", family, "route", "add", "default", "dev", "tun9", "table", "99")
		host.Run(t, "ip", rule...)
		t.Cleanup(func() {
			rule[2] = "del"
			if out, err := host.Command(context.WithoutCancel(t.Context()), "ip", rule...).CombinedOutput(); err != nil {
				t.Errorf("ip %s: %v: %s", strings.Join(rule, " "), err, out)
			}
		})
	}
	wantIntranet(t, s, c)
	for i, addr := range []string{lab.WebV4, lab.WebV6} {
		for _, name := range containers() {
			if seen, want := clientOf(t, s, name, hostPort(addr, 80)), []string{clientV4, clientV6}[i]; seen != want {
				t.Errorf("%s: %s saw %s, want the VPN's address %s", name, addr, seen, want)
			}
		}
		// Root's own programs go another way.
		seen, err := stage.Fetch(t, host, hostPort(addr, 80), "/ip")
		if want := []string{lab.HostV4, lab.HostV6}[i]; err != nil || seen != want {
			t.Errorf("the host's root: %s saw %s (%v), want the host %s", addr, seen, err, want)
		}
	}
	inside := openFlow(t, s, "inside", s.Lab.Internet, intranetV6)
	vpn.stop()
	doomed{inside.container}.wantReset(t, s)
	wantNoIntranet(t, s)
	before.wantAlive(t) // its address was the host's own all the time
}

// firewall lets out what the daemon's user sends, and OpenVPN's own datagrams.
// A socket's user is what counts (nft(8), meta skuid).
const firewall = `table inet lockdown {
	chain out {
		type filter hook output priority filter; policy drop;
		oifname "lo" accept
		meta l4proto ipv6-icmp icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert } accept
		meta skuid %s accept
		meta skuid 0 udp dport %s accept
		meta skuid 0 counter name refused reject with icmpx admin-prohibited
	}
	counter refused { }
}
`

// checkFirewall: only the daemon's user is let out, and containers lack nothing.
func checkFirewall(t *testing.T, s *stage.Stage, c *company) {
	host := s.Lab.Host
	load := host.Command(t.Context(), "nft", "-f", "-")
	load.Stdin = strings.NewReader(fmt.Sprintf(firewall, s.User.Uid, serverPort))
	if out, err := load.CombinedOutput(); err != nil {
		t.Fatalf("nft: %v: %s", err, out)
	}
	t.Cleanup(func() {
		if out, err := host.Command(context.WithoutCancel(t.Context()), "nft", "delete", "table", "inet", "lockdown").CombinedOutput(); err != nil {
			t.Errorf("nft: %v: %s", err, out)
		}
	})
	for _, addr := range []string{lab.WebV4, lab.WebV6} {
		if seen, err := stage.Fetch(t, host, hostPort(addr, 80), "/ip"); err == nil {
			t.Errorf("the firewall lets root's programs out to %s, as %s", addr, seen)
		}
	}
	checkOut := func() {
		t.Helper()
		for _, name := range containers() {
			got := s.Exec(t, name, "lookup", "web.internet.test")
			slices.Sort(got.Answers)
			if strings.Join(got.Answers, " ") != lab.WebV4+" "+lab.WebV6 {
				t.Errorf("%s: lookup: %+v", name, got)
			}
			for i, addr := range []string{lab.WebV4, lab.WebV6} {
				if seen, want := clientOf(t, s, name, hostPort(addr, 80)), []string{lab.HostV4, lab.HostV6}[i]; seen != want {
					t.Errorf("%s: %s saw %s, want %s", name, addr, seen, want)
				}
				if got := s.Exec(t, name, "udp-send", hostPort(addr, 7), "-size", "9000"); got.Outcome != testimage.OK {
					t.Errorf("%s: UDP to %s: %+v", name, addr, got)
				}
			}
		}
	}
	checkOut()
	far := openFlow(t, s, "far", s.Lab.Internet, lab.EmptyV4)
	vpn := c.connect(t, s)
	wantIntranet(t, s, c)
	checkOut()
	far.wantAlive(t)
	inside := openFlow(t, s, "inside", s.Lab.Internet, intranetV4)
	vpn.stop()
	doomed{inside.container}.wantReset(t, s)
	wantNoIntranet(t, s)
	checkOut()
	far.wantAlive(t)
}
