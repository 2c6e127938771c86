package hostnet_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/portolan-net/portolan/internal/stage"
	"github.com/portolan-net/portolan/internal/testimage"
)

// TestManyPorts is a container on the host network that opens more ports than the
// daemon has descriptors: those of others are left to them.
func TestManyPorts(t *testing.T) {
	s := stage.Up(t)
	serve(t, s, "before", "web", "-addr", ":8098")
	onHost(t, s, "tcp 0.0.0.0:8098", "tcp [::]:8098")
	s.Lab.Host.Run(t, "prlimit", fmt.Sprintf("--pid=%d", s.Status(t).Daemon.PID), "--nofile=800:")
	s.Docker(t, "run", "-d", "--name", "many", "--network", "host", testimage.Name, "listen-many", "-count", "2000")
	stage.Eventually(t, 2*limit, "some of its ports are on the host", func() bool { return len(ports(t, s)) > 100 })
	time.Sleep(2 * time.Second) // the next tries are over
	if got := len(ports(t, s)); got > 200 {
		t.Errorf("%d ports are on the host, want a quarter of 800 at most", got)
	}
	if text := s.Portolan(t, "logs"); strings.Count(text, "too many ports on the host network") != 1 {
		t.Errorf("the log tells not once of too many ports:\n%s", text)
	}
	if _, err := visitor(t, s.Lab.Host, "127.0.0.1:8098"); err != nil {
		t.Errorf("a port that was there before: %v", err)
	}
	s.Docker(t, "run", "-d", "--name", "published", "-p", "8097:80", testimage.Name, "web")
	stage.Eventually(t, limit, "another container publishes a port", func() bool {
		_, err := visitor(t, s.Lab.Host, "127.0.0.1:8097")
		return err == nil
	})
	s.Docker(t, "rm", "-f", "many")
	stage.Eventually(t, 2*limit, "its ports are gone", func() bool { return len(ports(t, s)) == 4 })
}
