package daemon

import (
	"net/netip"
	"testing"

	"github.com/portolan-net/portolan/internal/portolan"
	"github.com/portolan-net/portolan/internal/settings"
)

func TestChooseLink(t *testing.T) {
	for _, c := range []struct {
		name    string
		present string
		routes  []string
		v4, v6  string
	}{
		{"nothing in the way", "", []string{"10.0.0.0/8"}, "192.168.65.0/24", "fdc4:f303:9324::/64"},
		{"the default is taken", "", []string{"192.168.65.128/25"}, "192.168.66.0/24", "fdc4:f303:9324::/64"},
		{"several are", "", []string{"192.168.65.0/24", "192.168.66.0/23"}, "192.168.68.0/24", "fdc4:f303:9324::/64"},
		{"IPv6 is", "", []string{"fdc4:f303:9324::/64"}, "192.168.65.0/24", "fdc4:f303:9324:1::/64"},
		{"a neighbour is free still", "192.168.67.0/24", []string{"10.0.0.0/8"}, "192.168.67.0/24", "fdc4:f303:9324::/64"},
		{"a neighbour is taken as well", "192.168.66.0/24", []string{"192.168.65.0/24", "192.168.66.0/24"}, "192.168.67.0/24", "fdc4:f303:9324::/64"},
		{"what was once chosen", "10.9.8.0/24", []string{"10.0.0.0/8"}, "192.168.65.0/24", "fdc4:f303:9324::/64"},
	} {
		t.Run(c.name, func(t *testing.T) {
			var routes []netip.Prefix
			for _, r := range c.routes {
				routes = append(routes, netip.MustParsePrefix(r))
			}
			var present portolan.Link
			if c.present != "" {
				present.V4 = netip.MustParsePrefix(c.present)
			}
			link, err := chooseLink(settings.Values{Link: portolan.DefaultLink()}, present, routes)
			if err != nil {
				t.Fatal(err)
			}
			if link.V4.String() != c.v4 || link.V6.String() != c.v6 {
				t.Errorf("chose %s %s, want %s %s", link.V4, link.V6, c.v4, c.v6)
			}
			if err := link.Validate(); err != nil {
				t.Error(err)
			}
		})
	}
	if _, err := chooseLink(settings.Values{Link: portolan.DefaultLink()}, portolan.Link{}, []netip.Prefix{netip.MustParsePrefix("192.0.0.0/2")}); err == nil {
		t.Error("no free network, yet one is chosen")
	}
}
