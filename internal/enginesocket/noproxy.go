package enginesocket

import (
	"net/netip"
	"slices"
	"strings"

	"github.com/portolan-net/portolan/internal/portolan"
)

// always are destinations that no proxy has a way to: the container itself, its
// link, and Portolan's own names.
func always() []string {
	return []string{"localhost", "127.0.0.0/8", "127.0.0.1", "::1", "[::1]", "169.254.0.0/16", "fe80::/10", ".docker.internal", ".portolan.internal"}
}

// Variables are the proxy variables for containers, in both cases: HTTP_PROXY,
// HTTPS_PROXY and ALL_PROXY lead to the forward proxy, and NO_PROXY is noProxy.
func Variables(noProxy string) []string {
	var all []string
	for _, v := range []string{"HTTP_PROXY=" + portolan.ForwardProxy, "HTTPS_PROXY=" + portolan.ForwardProxy, "ALL_PROXY=" + portolan.ForwardProxy, "NO_PROXY=" + noProxy} {
		n, value, _ := strings.Cut(v, "=")
		all = append(all, v, strings.ToLower(n)+"="+value)
	}
	return all
}

// NoProxy is a NO_PROXY that curl, Go and Python understand: names, suffixes that
// begin with a dot, addresses, and networks as CIDR. Python's urllib and old curls
// skip networks, so addresses in them stand there, too, as far as names has them:
// those of IPv6 twice, for urllib wants brackets and curl none. An exclusion
// *.suffix becomes .suffix; one with a port keeps it, which Go reads; other
// patterns are left to the forward proxy, which knows them.
func NoProxy(exclusions []string, networks []netip.Prefix, names []string) string {
	list := always()
	for _, n := range networks {
		list = append(list, n.String())
	}
	list = append(list, names...)
	for _, e := range exclusions {
		e = strings.TrimSpace(e)
		if strings.HasPrefix(e, "*.") {
			e = e[1:]
		}
		if e != "" && !strings.ContainsAny(e, "*?[ ,<>\"'") {
			list = append(list, e)
		}
	}
	var once []string
	for _, e := range list {
		if !slices.Contains(once, e) {
			once = append(once, e)
		}
	}
	return strings.Join(once, ",")
}
