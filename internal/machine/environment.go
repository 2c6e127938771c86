package machine

import (
	"slices"
	"strings"
)

// environment is what a machine gets of the user's environment: what the engine
// and its programs have a use for. The rest is nobody's business there: a
// container with --privileged and --pid host can read the environment of every
// process of the machine, and users keep tokens in theirs. Proxies are none of
// its business either: the daemon knows them, and the machine knows the daemon's.
func environment(users []string) []string {
	return slices.DeleteFunc(slices.Clone(users), func(variable string) bool {
		name, _, _ := strings.Cut(variable, "=")
		switch name {
		case "PATH", "LANG", "TZ", "XDG_RUNTIME_DIR", "SSL_CERT_FILE", "SSL_CERT_DIR",
			"DOCKER_RAMDISK", "DOCKER_MIN_API_VERSION":
			return false
		}
		return !strings.HasPrefix(name, "LC_") && !strings.HasPrefix(name, "PORTOLAN_")
	})
}
