package rootless

import (
	"testing"

	"github.com/portolan-net/portolan/internal/stage"
	"github.com/portolan-net/portolan/internal/testimage"
)

// checkMove gives the user's machine another subnet, by a helper that has come in
// place of one that was killed.
func checkMove(t *testing.T, s *stage.Stage) {
	s.Lab.StartWeb(t, s.Lab.Host, "127.0.0.1:8092")
	s.Serve(t, "mover", nil, "web")
	started := s.Docker(t, "inspect", "-f", "{{.State.StartedAt}}", "mover")
	s.Portolan(t, "settings", "set", "--yes", "linuxVM.vpnkitCIDR", "10.99.0.0/24")
	if got := s.Status(t).Link.V4.String(); got != "10.99.0.0/24" {
		t.Errorf("the machine is on %s", got)
	}
	for _, url := range []string{"http://web.internet.test/ip", "http://host.docker.internal:8092/"} {
		if got := s.Exec(t, "mover", "get", url); got.Outcome != testimage.OK {
			t.Errorf("a container from before gets %s: %+v", url, got)
		}
		if got := s.Toolbox(t, nil, "get", url); got.Outcome != testimage.OK {
			t.Errorf("a new container gets %s: %+v", url, got)
		}
	}
	if now := s.Docker(t, "inspect", "-f", "{{.State.StartedAt}}", "mover"); now != started {
		t.Errorf("the container was started at %s and at %s", started, now)
	}
	s.Portolan(t, "settings", "unset", "--yes", "linuxVM.vpnkitCIDR")
}
