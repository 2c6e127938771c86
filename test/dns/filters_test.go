package dns

import (
	"strings"
	"testing"

	"github.com/portolan-net/portolan/internal/lab"
	"github.com/portolan-net/portolan/internal/stage"
)

// checkFilters: getaddrinfo gives programs the addresses that the filter leaves,
// and those of the family that the host itself can use where that is automatic.
func checkFilters(t *testing.T, s *stage.Stage) {
	all := func(addrs ...string) {
		t.Helper()
		want(t, s, "web.internet.test", addrs...)
	}
	for _, c := range []struct {
		inhibition string
		addrs      []string
	}{{"ipv4", []string{lab.WebV6}}, {"ipv6", []string{lab.WebV4}}, {"none", []string{lab.WebV4, lab.WebV6}}} {
		s.Portolan(t, "settings", "set", "dnsInhibition", c.inhibition)
		all(c.addrs...)
	}
	want(t, s, "v4only.internet.test", lab.WebV4)
	s.Portolan(t, "settings", "set", "dnsInhibition", "ipv4")
	want(t, s, "v4only.internet.test") // which exists, without an address
	for _, container := range containers() {
		if got := s.Docker(t, "exec", container, "/usr/bin/dig", "v4only.internet.test", "A"); !strings.Contains(got, "status: NOERROR") || !strings.Contains(got, "ANSWER: 0") {
			t.Errorf("%s: a name whose only address is hidden: %s", container, got)
		}
	}
	s.Portolan(t, "settings", "unset", "dnsInhibition")
	all(lab.WebV4, lab.WebV6)
	for _, c := range []struct{ family, left string }{{"-6", lab.WebV4}, {"-4", lab.WebV6}} {
		ip := func(words ...string) string {
			return s.Lab.Host.Run(t, "ip", append([]string{c.family, "route"}, words...)...)
		}
		route, _, _ := strings.Cut(ip("show", "default"), "\n")
		ip("del", "default")
		all(c.left)
		ip(append([]string{"add"}, strings.Fields(route)...)...)
		all(lab.WebV4, lab.WebV6)
	}
}
