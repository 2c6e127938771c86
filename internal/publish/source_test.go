package publish

import (
	"net/netip"
	"testing"

	"github.com/portolan-net/portolan/internal/portolan"
)

func TestSource(t *testing.T) {
	here := surroundings{
		link: portolan.DefaultLink(),
		host: []netip.Addr{netip.MustParseAddr("198.51.100.5"), netip.MustParseAddr("2001:db8::5")},
		networks: []netip.Prefix{
			netip.MustParsePrefix("172.17.0.0/16"), netip.MustParsePrefix("fd00:17::/64"),
			netip.MustParsePrefix("10.9.9.9/32"),
		},
	}
	const (
		v4, v6     = "172.17.0.2", "fd00:17::2"
		host4      = "192.168.65.254"
		host6      = "fdc4:f303:9324::254"
		neighbour4 = "198.51.100.77"
		neighbour6 = "2001:db8::77"
	)
	for _, c := range []struct{ why, client, container, want string }{
		{"a neighbour", neighbour4, v4, neighbour4},
		{"a neighbour", neighbour6, v6, neighbour6},
		{"a private neighbour", "192.168.1.20", v4, "192.168.1.20"},
		{"mapped by a dual-stack socket", "::ffff:198.51.100.77", v4, neighbour4},
		{"the host's loopback", "127.0.0.1", v4, host4},
		{"another loopback address", "127.8.8.8", v4, host4},
		{"the host's loopback", "::1", v6, host6},
		{"the host's own address", "198.51.100.5", v4, host4},
		{"the host's own address", "2001:db8::5", v6, host6},
		{"link-local", "169.254.3.4", v4, host4},
		{"link-local with its zone", "fe80::1%eth0", v6, host6},
		{"an engine's subnet", "172.17.44.1", v4, host4},
		{"an engine's subnet", "fd00:17::99", v6, host6},
		{"an address of the machine", "10.9.9.9", v4, host4},
		{"beside that address", "10.9.9.8", v4, "10.9.9.8"},
		{"the link's subnet", "192.168.65.20", v4, host4},
		{"the link's subnet", "fdc4:f303:9324::20", v6, host6},
		{"the other family", neighbour6, v4, host4},
		{"the other family", neighbour4, v6, host6},
		{"the other family, loopback", "::1", v4, host4},
		{"multicast", "224.0.0.1", v4, host4},
		{"unspecified", "0.0.0.0", v4, host4},
	} {
		got := source(netip.MustParseAddr(c.client), netip.MustParseAddr(c.container), here)
		if got != netip.MustParseAddr(c.want) {
			t.Errorf("%s: source(%s) to %s = %s, want %s", c.why, c.client, c.container, got, c.want)
		}
	}
	if got := source(netip.Addr{}, netip.MustParseAddr(v4), here); got != netip.MustParseAddr(host4) {
		t.Errorf("source of an unknown client = %s", got)
	}
}
