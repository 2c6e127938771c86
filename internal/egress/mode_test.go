package egress

import (
	"testing"

	"github.com/portolan-net/portolan/internal/datapath"
	"github.com/portolan-net/portolan/internal/portolan"
)

func TestModeRefusesTheOtherFamily(t *testing.T) {
	mode := portolan.DualStack
	e := New(Config{Link: portolan.DefaultLink(), Mode: func() portolan.Mode { return mode }})
	t.Cleanup(func() { _ = e.Close() })
	const out4, out6, host4, dns4, dns6 = "198.51.100.1", "2001:db8:1::1", "192.168.65.254", "192.168.65.7", "fdc4:f303:9324::7"
	for _, c := range []struct {
		mode portolan.Mode
		addr string
		want verdict
	}{
		{portolan.DualStack, out4, direct},
		{portolan.DualStack, out6, direct},
		{portolan.IPv4Only, out4, direct},
		{portolan.IPv4Only, out6, refuse},
		{portolan.IPv6Only, out4, refuse},
		{portolan.IPv6Only, out6, direct},
		{portolan.IPv6Only, host4, refuse},
		{portolan.IPv4Only, host4, host},
		{portolan.IPv6Only, dns4, resolver}, // docker0 has IPv4 in every mode
		{portolan.IPv4Only, dns6, resolver},
	} {
		mode = c.mode
		for _, proto := range []portolan.Proto{portolan.TCP, portolan.UDP} {
			got, err := e.decide(flowTo(proto, at(c.addr, 53)))
			if got != c.want || got == refuse && datapath.Classify(err) != datapath.NetUnreachable {
				t.Errorf("%s, %s to %s: verdict %d, %v; want %d", c.mode, proto, c.addr, got, err, c.want)
			}
		}
	}
}
