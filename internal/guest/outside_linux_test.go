package guest

import (
	"net/netip"
	"slices"
	"testing"

	"github.com/portolan-net/portolan/internal/portolan"
)

func TestSpans(t *testing.T) {
	port := func(proto portolan.Proto, addr string) portolan.Port {
		return portolan.Port{Proto: proto, Host: netip.MustParseAddrPort(addr)}
	}
	got := spansOf([]portolan.Port{
		port(portolan.TCP, "172.17.0.2:82"), port(portolan.TCP, "172.17.0.2:80"), port(portolan.UDP, "172.17.0.2:81"),
		port(portolan.TCP, "172.17.0.2:81"), port(portolan.TCP, "172.17.0.2:81"), port(portolan.TCP, "172.17.0.3:83"),
		port(portolan.TCP, "172.17.0.2:84"), port(portolan.TCP, "[fd00::2]:80"), port(portolan.TCP, "172.17.0.2:65535"),
	})
	web, other, v6 := netip.MustParseAddr("172.17.0.2"), netip.MustParseAddr("172.17.0.3"), netip.MustParseAddr("fd00::2")
	want := []span{
		{web, portolan.TCP, 80, 82}, {web, portolan.TCP, 84, 84}, {web, portolan.TCP, 65535, 65535}, {web, portolan.UDP, 81, 81},
		{other, portolan.TCP, 83, 83}, {v6, portolan.TCP, 80, 80},
	}
	if !slices.Equal(got, want) {
		t.Errorf("spans are %v, want %v", got, want)
	}
}
