package machine

import (
	"net/url"
	"slices"
	"strings"
)

// environment is what a machine gets of the user's environment: what the engine
// and its programs have a use for. The rest is nobody's business there: a
// container with --privileged and --pid host can read the environment of every
// process of the machine, and users keep tokens in theirs. A proxy with a
// password in it is left out, too.
func environment(users []string) []string {
	return slices.DeleteFunc(slices.Clone(users), func(variable string) bool {
		name, value, _ := strings.Cut(variable, "=")
		switch name {
		case "PATH", "LANG", "TZ", "XDG_RUNTIME_DIR", "SSL_CERT_FILE", "SSL_CERT_DIR",
			"DOCKER_RAMDISK", "DOCKER_MIN_API_VERSION", "NO_PROXY", "no_proxy":
			return false
		case "HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy":
			proxy, err := url.Parse(value)
			return err != nil || strings.Contains(value, "@") || proxy.User != nil
		}
		return !strings.HasPrefix(name, "LC_") && !strings.HasPrefix(name, "PORTOLAN_")
	})
}
