package daemon

import (
	"net/netip"
	"slices"
	"testing"
	"time"
)

// An address is lost when it has been away for long enough, which depends on its
// interface.
func TestLostAddresses(t *testing.T) {
	const nic, tun = 2, 7
	lan, vpn := netip.MustParseAddr("192.0.2.10"), netip.MustParseAddr("10.8.0.2")
	both := map[netip.Addr]int{lan: nic, vpn: tun}
	start := time.Now()
	for name, c := range map[string][]struct {
		at    time.Duration
		have  map[netip.Addr]int
		links []int
		lost  []netip.Addr
		next  time.Duration
	}{
		"a tunnel that goes": {
			{0, both, []int{nic, tun}, nil, 0},
			{time.Second, map[netip.Addr]int{lan: nic}, []int{nic, tun}, nil, tunnelAway}, // its address goes first
			{2 * time.Second, map[netip.Addr]int{lan: nic}, []int{nic}, nil, tunnelAway - time.Second},
			{time.Second + tunnelAway, map[netip.Addr]int{lan: nic}, []int{nic}, []netip.Addr{vpn}, 0},
			{time.Hour, map[netip.Addr]int{lan: nic}, []int{nic}, nil, 0},
		},
		"a tunnel that is set up anew": {
			{0, both, []int{nic, tun}, nil, 0},
			{0, map[netip.Addr]int{lan: nic}, []int{nic}, nil, tunnelAway},
			{tunnelAway - 1, map[netip.Addr]int{lan: nic, vpn: tun + 1}, []int{nic, tun + 1}, nil, 0},
			{time.Hour, map[netip.Addr]int{lan: nic}, []int{nic}, nil, tunnelAway},
			{time.Hour + tunnelAway, map[netip.Addr]int{lan: nic}, []int{nic}, []netip.Addr{vpn}, 0},
		},
		"a computer that sleeps": {
			{0, both, []int{nic, tun}, nil, 0},
			{0, map[netip.Addr]int{vpn: tun}, []int{nic, tun}, nil, tunnelAway},
			{tunnelAway, map[netip.Addr]int{vpn: tun}, []int{nic, tun}, nil, addressAway - tunnelAway},
			{addressAway - 1, both, []int{nic, tun}, nil, 0},
		},
		"another network": {
			{0, both, []int{nic, tun}, nil, 0},
			{0, map[netip.Addr]int{vpn: tun}, []int{nic, tun}, nil, tunnelAway},
			{addressAway, map[netip.Addr]int{vpn: tun}, []int{nic, tun}, []netip.Addr{lan}, 0},
		},
	} {
		var l lostAddresses
		for i, step := range c {
			links := map[int]bool{}
			for _, link := range step.links {
				links[link] = true
			}
			lost, next := l.look(start.Add(step.at), hostAddresses{step.have, links})
			if !slices.Equal(lost, step.lost) || next != step.next {
				t.Errorf("%s, step %d: lost %v, next look in %s; want %v, %s", name, i, lost, next, step.lost, step.next)
			}
		}
	}
}
