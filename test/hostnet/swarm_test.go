package hostnet_test

import (
	"strings"
	"testing"

	"github.com/portolan-net/portolan/internal/lab"
	"github.com/portolan-net/portolan/internal/stage"
	"github.com/portolan-net/portolan/internal/testimage"
)

// Swarm mode needs no setting and stops no container; what its services publish
// in host mode is on the host, and a taken port says why. Left, it is as if it had
// never been. (The routing mesh: TestMesh.)
func TestSwarm(t *testing.T) {
	s := stage.Up(t)
	s.Serve(t, "before", []string{"-p", "8081:80"}, "web", "-name", "before")
	started := s.Docker(t, "inspect", "-f", "{{.State.StartedAt}}", "before")
	s.Docker(t, "swarm", "init", "--advertise-addr", s.Status(t).Link.Machine().V4.String())
	if now := s.Docker(t, "inspect", "-f", "{{.State.StartedAt}}", "before"); now != started {
		t.Errorf("the container from before: started %s, now %s", started, now)
	}
	if got, err := visitor(t, s.Lab.Host, "127.0.0.1:8081"); err != nil || got.Name != "before" {
		t.Errorf("the container from before: %+v, %v", got, err)
	}
	service := func(name, ports string) {
		s.Docker(t, "service", "create", "-d", "--name", name, "--publish", "mode=host,"+ports, "--no-resolve-image", testimage.Name, "web", "-name", name)
	}
	service("served", "published=8088,target=80")
	for addr, from := range map[string]*lab.Node{"127.0.0.1:8088": s.Lab.Host, lab.HostV4 + ":8088": s.Lab.Neighbour} {
		stage.Eventually(t, 2*limit, "the service answers at "+addr, func() bool {
			got, err := visitor(t, from, addr)
			return err == nil && got.Name == "served"
		})
	}
	hostWord(t, s, "0.0.0.0:8089", "taken")
	service("conflict", "published=8089,target=80")
	stage.Eventually(t, 2*limit, "the service says that its port is taken", func() bool {
		out, _ := s.TryDocker(t, "service", "ps", "--no-trunc", "conflict")
		return strings.Contains(out, "address already in use")
	})
	s.Docker(t, "service", "rm", "conflict", "served")
	// dockerd starts again in swarm mode, which it does not with live-restore.
	kill(t, s.MachineProcess(t, "dockerd"))
	stage.Eventually(t, limit, "dockerd is in swarm mode again", func() bool {
		out, code := s.TryDocker(t, "node", "ls", "-q")
		return code == 0 && strings.TrimSpace(out) != ""
	})
	s.Docker(t, "swarm", "leave", "--force")
	stage.Eventually(t, 2*limit, "live-restore is on again", func() bool {
		return s.Docker(t, "info", "-f", "{{.LiveRestoreEnabled}}") == "true"
	})
	s.Docker(t, "start", "before")
	running := func() string {
		return s.Docker(t, "inspect", "-f", "{{.State.Running}} {{.State.StartedAt}}", "before")
	}
	started = running()
	kill(t, s.MachineProcess(t, "dockerd"))
	stage.Eventually(t, limit, "dockerd is back", func() bool {
		_, code := s.TryDocker(t, "version")
		return code == 0
	})
	if now := running(); now != started || !strings.HasPrefix(now, "true") {
		t.Errorf("the container from before: %s, after the death of dockerd %s", started, now)
	}
}
