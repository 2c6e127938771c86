package daemon

import (
	"maps"
	"net/netip"
	"slices"
	"testing"

	"github.com/portolan-net/portolan/internal/portolan"
	"github.com/portolan-net/portolan/internal/settings"
)

// What a container waits on in the machine, and where that is on the host.
func TestHostNetworkWanted(t *testing.T) {
	listener := func(addr string) portolan.Listener {
		return portolan.Listener{Proto: portolan.TCP, Addr: netip.MustParseAddrPort(addr)}
	}
	for _, c := range []struct {
		name    string
		mode    portolan.Mode
		off     bool
		told    []string
		want    []string
		unknown bool
	}{
		{name: "everywhere", told: []string{"0.0.0.0:80", "[::]:80"}, want: []string{"tcp 0.0.0.0:80 -> 192.168.65.3:80", "tcp [::]:80 -> [fdc4:f303:9324::3]:80"}},
		{name: "loopback", told: []string{"127.0.0.1:80", "[::1]:80"}, want: []string{"tcp 127.0.0.1:80 -> 127.0.0.1:80", "tcp [::1]:80 -> [::1]:80"}},
		{name: "both on one port", told: []string{"0.0.0.0:80", "127.0.0.1:80", "[::1]:80"}, want: []string{"tcp 0.0.0.0:80 -> 192.168.65.3:80", "tcp [::1]:80 -> [::1]:80"}},
		{name: "one family", mode: portolan.IPv4Only, told: []string{"0.0.0.0:80", "[::]:80"}, want: []string{"tcp 0.0.0.0:80 -> 192.168.65.3:80"}},
		{name: "switched off", off: true, told: []string{"0.0.0.0:80"}},
		{name: "nothing heard", unknown: true},
	} {
		t.Run(c.name, func(t *testing.T) {
			d := &daemon{}
			d.spec.Link = portolan.DefaultLink()
			if c.mode == "" {
				c.mode = portolan.DualStack
			}
			d.values.Store(&settings.Values{Mode: c.mode, HostNetwork: !c.off})
			h := &hostNetwork{daemon: d}
			if !c.unknown {
				h.told = &portolan.HostNetwork{Used: true}
				for _, addr := range c.told {
					h.told.Listeners = append(h.told.Listeners, listener(addr))
				}
			}
			var got []string
			for b := range maps.Keys(h.wanted()) {
				got = append(got, b.String())
			}
			slices.Sort(got)
			if !slices.Equal(got, c.want) {
				t.Errorf("got %q, want %q", got, c.want)
			}
		})
	}
}
