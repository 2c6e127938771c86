package engine

import (
	"strings"

	"github.com/portolan-net/portolan/internal/portolan"
)

// proxies is dockerd's own use of proxies, for pulls, pushes, logins and what
// BuildKit fetches. It never changes, so that a change of the host's proxies
// restarts nothing. Past the proxy go the machine itself, its names, and the
// engine's default networks, where a registry may run in a container.
func proxies() map[string]string {
	return map[string]string{
		"http-proxy": portolan.ForwardProxy, "https-proxy": portolan.ForwardProxy,
		"no-proxy": strings.Join([]string{
			"localhost", "127.0.0.0/8", "::1", "169.254.0.0/16", "fe80::/10",
			".docker.internal", ".portolan.internal", "172.16.0.0/12", "192.168.0.0/16",
		}, ","),
	}
}
