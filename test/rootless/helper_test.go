package rootless

import (
	"fmt"
	"os"
	"syscall"
	"testing"
	"time"

	"github.com/portolan-net/portolan/internal/api"
	"github.com/portolan-net/portolan/internal/lab"
	"github.com/portolan-net/portolan/internal/stage"
	"github.com/portolan-net/portolan/internal/testimage"
)

// backWithin is five times the second within which what was killed is back.
const backWithin = 5 * time.Second

// The router's helper is killed twice, and the daemon then attaches to the
// third one: containers and what is connected go on, in the same namespaces.
func checkHelperKilled(t *testing.T, s *stage.Stage) {
	f := stage.OpenFlows(t, s)
	started := s.Docker(t, "inspect", "-f", "{{.State.StartedAt}}", "tcp0")
	first := s.Status(t)
	router := routerOf(t, first.Helper.PID)
	for range 2 {
		was := s.Status(t)
		if err := syscall.Kill(was.Helper.PID, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		stage.PortsAnswer(t, s, backWithin)
		stage.Eventually(t, backWithin, "another helper runs", func() bool {
			now := s.Status(t)
			return now.Helper.PID != was.Helper.PID && syscall.Kill(now.Helper.PID, 0) == nil && now.State == api.Running
		})
		if now := routerOf(t, s.Status(t).Helper.PID); now != router {
			t.Errorf("the helper's namespaces were %s and are %s", router, now)
		}
	}
	if now := s.Status(t); now.Daemon.PID != first.Daemon.PID || now.Machine.PID != first.Machine.PID {
		t.Errorf("processes were %+v and are %+v, want another helper only", first, now)
	}
	f.AllGo(t)
	if err := syscall.Kill(first.Daemon.PID, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	stage.Eventually(t, backWithin, "another daemon attaches to the helper", func() bool {
		out, code := s.TryPortolan(t, "status")
		return code == 0 && out != "" && s.Status(t).Daemon.PID != first.Daemon.PID
	})
	stage.AnswerWithin(t, s, backWithin)
	if now := s.Docker(t, "inspect", "-f", "{{.State.StartedAt}}", "tcp0"); now != started {
		t.Errorf("the container started at %s, before %s", started, now)
	}
	if got := s.Toolbox(t, nil, "get", "http://"+hostPort(lab.WebV4, 80)+"/ip"); got.Outcome != testimage.OK {
		t.Errorf("out by way of the third helper: %+v", got)
	}
}

// routerOf names the network and user namespaces of a process.
func routerOf(t *testing.T, pid int) string {
	t.Helper()
	var names string
	for _, kind := range []string{"net", "user"} {
		name, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/%s", pid, kind))
		if err != nil {
			t.Fatal(err)
		}
		names += name
	}
	return names
}
