package reference

import (
	"strings"
	"testing"
	"time"

	"github.com/portolan-net/portolan/internal/stage"
	"github.com/portolan-net/portolan/internal/testimage"
)

// limitations are what the documents say can't be done, done.
func limitations() []example {
	return []example{
		{
			"There is no docker0 bridge on macOS",
			[]string{"000 宿主机上没有 docker0 网桥", "001 There is no docker0 bridge on macOS", "002 macOS に docker0 ブリッジがありません"},
			"a command of the host's own sees docker0, and once the host is connected, the bridge answers it at its address",
			func(t *testing.T, s *stage.Stage) {
				if out := s.Portolan(t, "shell", "--", "ip", "-o", "link", "show", "docker0"); !strings.Contains(out, "docker0: <") {
					t.Errorf("ip link show docker0: %s", out)
				}
				connected(t, s)
				gateway := s.Docker(t, "network", "inspect", "-f", "{{(index .IPAM.Config 0).Gateway}}", "bridge")
				if got := s.HostToolbox(t, "ping", strings.TrimSpace(gateway)); got.Outcome != testimage.OK {
					t.Errorf("ping %s: %+v", gateway, got)
				}
			},
		},
		{
			"I want to connect from a container to a service on the host",
			[]string{"001 I want to connect from a container to a service on the host"},
			"without an unused address on lo0: a service that listens on localhost only answers at host.docker.internal",
			func(t *testing.T, s *stage.Stage) {
				s.Lab.StartWeb(t, s.Lab.Host, "127.0.0.1:8002")
				if got := s.Toolbox(t, nil, "get", "http://host.docker.internal:8002"); strings.TrimSpace(got.Body) != "hello" {
					t.Errorf("the host's service: %+v", got)
				}
			},
		},
		{
			"I cannot ping my containers", []string{"000 我无法 ping 通我的容器", "001 I cannot ping my containers", "002 コンテナに ping できません"},
			"once the host is connected, every container answers its ping, over both families",
			func(t *testing.T, s *stage.Stage) {
				connected(t, s)
				alpine(t, s, "pinged")
				for _, addr := range []string{"IPAddress", "GlobalIPv6Address"} {
					ip := s.Docker(t, "inspect", "-f", "{{.NetworkSettings.Networks.bridge."+addr+"}}", "pinged")
					if got := s.HostToolbox(t, "ping", ip); got.Outcome != testimage.OK {
						t.Errorf("ping %s: %+v", ip, got)
					}
				}
			},
		},
		{
			"Per-container IP addressing is not possible",
			[]string{"000 无法实现按容器分配 IP (Per-container IP addressing)", "001 Per-container IP addressing is not possible", "002 コンテナごとに IP アドレスを割り当てられません"},
			"once the host is connected, two servers on the same port answer at their own addresses, and nothing is published",
			func(t *testing.T, s *stage.Stage) {
				connected(t, s)
				for _, name := range []string{"one", "two"} {
					nginx(t, s, "--name", name)
					welcomes(t, s, address(addressOn(t, s, name, "bridge"), 80))
				}
			},
		},
		{
			"I want to connect to a container from the Mac", []string{"001 I want to connect to a container from the Mac"},
			"without publishing a port and without privilege: a program of the host in the machine's network finds the container by name",
			func(t *testing.T, s *stage.Stage) {
				nginx(t, s, "--name", "unpublished")
				stage.Eventually(t, 10*time.Second, "the name is known", func() bool {
					out, code := s.TryPortolan(t, "shell", "--", "getent", "hosts", "unpublished")
					return code == 0 && strings.Contains(out, "unpublished.portolan.internal")
				})
				const get = `exec 3<>/dev/tcp/unpublished/80; printf 'GET / HTTP/1.0\r\n\r\n' >&3; cat <&3`
				if out := s.Portolan(t, "shell", "--", "bash", "-c", get); !strings.Contains(out, "Welcome to nginx") {
					t.Errorf("the shell gets %q, want nginx", out)
				}
			},
		},
	}
}

// connected connects the host until the example ends.
func connected(t *testing.T, s *stage.Stage) {
	t.Helper()
	s.Portolan(t, "connect")
	t.Cleanup(func() { s.Portolan(t, "disconnect") })
}
