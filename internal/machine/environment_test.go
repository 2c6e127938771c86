package machine

import (
	"slices"
	"testing"
)

func TestEnvironment(t *testing.T) {
	kept := []string{
		"PATH=/bin", "LANG=C", "LC_ALL=C.UTF-8", "PORTOLAN_DEBUG=1", "DOCKER_RAMDISK=true", "XDG_RUNTIME_DIR=/run/user/1",
	}
	dropped := []string{
		"HOME=/root", "GITHUB_TOKEN=x", "AWS_SECRET_ACCESS_KEY=x", "PATHS=x", "EMPTY=", "odd", "DOCKER_AUTH_CONFIG={}",
		"HTTP_PROXY=http://proxy.test:3128", "https_proxy=proxy.test:3128", "NO_PROXY=.test",
		"HTTPS_PROXY=http://user:word@proxy.test:3128", "http_proxy=user:word@proxy.test:3128", "all_proxy=http://user@proxy.test", "ALL_PROXY=http://%zz",
	}
	users := slices.Concat(dropped, kept)
	if got := environment(users); !slices.Equal(got, kept) {
		t.Errorf("environment = %q, want %q", got, kept)
	}
	if users[0] != dropped[0] || len(users) != len(kept)+len(dropped) {
		t.Error("the user's environment was changed")
	}
}
