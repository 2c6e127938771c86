package daemon

import (
	"strings"
	"testing"

	"github.com/portolan-net/portolan/internal/portolan"
)

func TestOutdatedNetworks(t *testing.T) {
	made := func(v4, v6 string) map[string]string {
		return map[string]string{defaultFamily + "4": v4, defaultFamily + "6": v6}
	}
	for _, c := range []struct {
		name string
		n    network
		mode portolan.Mode
		want []string // parts of the text; none for a network that is as it should be
	}{
		{"as the mode is", network{Name: "n", Driver: "bridge", EnableIPv4: true, EnableIPv6: true, Options: made("true", "true")}, portolan.DualStack, nil},
		{"made in dual-stack", network{Name: "n", Driver: "bridge", EnableIPv4: true, EnableIPv6: true, Options: made("true", "true")}, portolan.IPv4Only, []string{"network n has IPv6", "docker network rm n"}},
		{"made in ipv4only", network{Name: "n", Driver: "bridge", EnableIPv4: true, Options: made("true", "false")}, portolan.DualStack, []string{"network n has no IPv6"}},
		{"the other family", network{Name: "n", Driver: "bridge", EnableIPv4: true, Options: made("true", "false")}, portolan.IPv6Only, []string{"has IPv4", " and has no IPv6"}},
		{"its maker chose", network{Name: "n", Driver: "bridge", EnableIPv4: true, Options: made("true", "true")}, portolan.DualStack, nil},
		{"of compose", network{Name: "n", Driver: "bridge", EnableIPv4: true, Options: made("true", "false"), Labels: map[string]string{"com.docker.compose.project": "shop"}}, portolan.DualStack, []string{"docker compose -p shop down"}},
		{"docker0", network{Name: "bridge", Driver: "bridge", EnableIPv4: true, Options: made("true", "false")}, portolan.DualStack, nil},
		{"another driver", network{Name: "n", Driver: "macvlan", EnableIPv4: true, Options: made("true", "false")}, portolan.DualStack, nil},
		{"without the option", network{Name: "n", Driver: "bridge", EnableIPv4: true}, portolan.DualStack, nil},
	} {
		got := c.n.outdated(c.mode)
		if len(c.want) == 0 && got != "" {
			t.Errorf("%s: %q", c.name, got)
		}
		for _, part := range c.want {
			if !strings.Contains(got, part) {
				t.Errorf("%s: %q, want %q in it", c.name, got, part)
			}
		}
	}
}
