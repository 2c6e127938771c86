package bench

import (
	"testing"

	"github.com/portolan-net/portolan/internal/stage"
)

// connectHost leads the host to the containers' own addresses and returns that
// of a container with both servers on their usual ports. No process carries what
// goes there.
func connectHost(b *testing.B, s *stage.Stage) string {
	b.Helper()
	s.Docker(b, "run", "-d", "--name", "inner1", "--tmpfs", "/tmp", imageName, "/bin/iperf3", "-s", "-p", iperfPort)
	s.Docker(b, "run", "-d", "--name", "inner2", "--network", "container:inner1", imageName, "/bin/probe", "serve", ":"+probePort)
	b.Cleanup(func() { s.Docker(b, "rm", "-f", "inner2", "inner1") })
	s.Portolan(b, "connect")
	b.Cleanup(func() { s.Portolan(b, "disconnect") })
	return s.Docker(b, "inspect", "-f", "{{.NetworkSettings.Networks.bridge.IPAddress}}", "inner1")
}
