package hostnet_test

import (
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/portolan-net/portolan/internal/api"
	"github.com/portolan-net/portolan/internal/lab"
	"github.com/portolan-net/portolan/internal/stage"
	"github.com/portolan-net/portolan/internal/testimage"
)

// meshLimit is a deadline that only a hang reaches, in an emulated computer.
const meshLimit = 3 * time.Minute

// Ports of swarm's routing mesh are on the host. Where the kernel has no ip_vs
// there is no mesh: `make vm-test` has one.
func TestMesh(t *testing.T) {
	_ = exec.CommandContext(t.Context(), "modprobe", "-a", "ip_vs", "vxlan").Run() // or it is built in
	if _, err := os.Stat("/proc/net/ip_vs"); err != nil {
		t.Skip("this kernel has no ip_vs: make vm-test")
	}
	s := stage.Up(t)
	s.Docker(t, "swarm", "init", "--advertise-addr", s.Status(t).Link.Machine().V4.String())
	service := func(name, ports string) {
		s.Docker(t, "service", "create", "-d", "--name", name, "--replicas", "2", "--publish", ports, "--no-resolve-image", testimage.Name, "web", "-name", name)
	}
	answers := func(from *lab.Node, addr, name string) {
		t.Helper()
		stage.Eventually(t, meshLimit, name+" answers at "+addr, func() bool {
			got, err := visitor(t, from, addr)
			return err == nil && got.Name == name
		})
	}
	taken := hostWord(t, s, "0.0.0.0:8090", "taken")
	service("one", "8088:80")
	service("two", "published=8089,target=80,mode=ingress")
	service("late", "8090:80")
	for name, port := range map[string]string{"one": "8088", "two": "8089"} {
		answers(s.Lab.Host, "127.0.0.1:"+port, name)
		answers(s.Lab.Host, "[::1]:"+port, name)
		answers(s.Lab.Neighbour, lab.HostV4+":"+port, name)
		answers(s.Lab.Neighbour, "["+lab.HostV6+"]:"+port, name)
	}

	stage.Eventually(t, meshLimit, "ports shows the conflict", func() bool {
		return slices.ContainsFunc(ports(t, s), func(p api.Port) bool {
			return p.Host.String() == "0.0.0.0:8090" && strings.Contains(p.Error, "address already in use: held by")
		})
	})
	if problems := strings.Join(s.Status(t).Problems, "\n"); !strings.Contains(problems, "0.0.0.0:8090") {
		t.Errorf("status does not show the conflict: %s", problems)
	}
	if table := s.Portolan(t, "ports"); !strings.Contains(table, "one:8088") || !strings.Contains(table, "late:8090") {
		t.Errorf("portolan ports does not name the services:\n%s", table)
	}
	taken.Close()
	answers(s.Lab.Host, "127.0.0.1:8090", "late")

	s.Docker(t, "service", "rm", "one")
	stage.Eventually(t, meshLimit, "the port of a service that is gone is free", func() bool {
		return !slices.ContainsFunc(ports(t, s), func(p api.Port) bool { return p.Host.Port() == 8088 })
	})

	// Tasks on overlay networks get out with addresses of their own.
	s.Docker(t, "network", "create", "-d", "overlay", "--attachable", "over")
	if got := s.Toolbox(t, []string{"--network", "over"}, "dial", "tcp", lab.NeighbourV4+":1", "-timeout", "60s"); got.Outcome != testimage.Refused {
		t.Errorf("a container on an overlay network asks a neighbour who refuses: %+v", got)
	}
	inspect := s.Docker(t, "network", "inspect", "docker_gwbridge", "--format", `{{index .Options "com.docker.network.bridge.enable_ip_masquerade"}}`)
	if inspect != "false" {
		t.Errorf("docker_gwbridge masquerades: %q", inspect)
	}
}
