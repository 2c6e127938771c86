package reference

import (
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/portolan-net/portolan/internal/lab"
	"github.com/portolan-net/portolan/internal/portolan"
	"github.com/portolan-net/portolan/internal/stage"
	"github.com/portolan-net/portolan/internal/testimage"
)

// hostAccess are the examples of how containers and the host see each other.
func hostAccess() []example {
	noDocker0 := []string{"000 宿主机上没有 docker0 网桥", "001 There is no docker0 bridge on macOS", "002 macOS に docker0 ブリッジがありません"}
	toHost := []string{"000 我想从容器连接到宿主机上的服务", "002 コンテナからホスト上のサービスに対して接続したい", "003 Host Network ??"}
	return []example{
		{
			"containers use the host's connections", []string{"000 VPN 穿透 (VPN Passthrough)", "001 VPN Passthrough(VPN通道)", "002 VPN パススルー"},
			"what a container sends comes from the host's address and from a socket of Portolan's process",
			func(t *testing.T, s *stage.Stage) {
				s.Internet.TCPEcho[0].Forget()
				client := s.Command(t.Context(), "docker", "run", "--name", "client", "alpine", "toolbox",
					"dial", "tcp", lab.WebV4+":7", "-expect-echo", "-timeout", "1m")
				// The echo server says nothing to a client that sends nothing, so the connection stays.
				if err := client.Start(); err != nil {
					t.Fatal(err)
				}
				defer func() {
					s.Docker(t, "rm", "-f", "client")
					_ = client.Wait() // the exit code of a killed container
				}()
				stage.Eventually(t, 10*time.Second, "the server sees a client", func() bool { return len(s.Internet.TCPEcho[0].Clients()) == 1 })
				seen := s.Internet.TCPEcho[0].Clients()[0]
				if seen.Addr().String() != lab.HostV4 {
					t.Errorf("the server sees %s, want the host %s", seen, lab.HostV4)
				}
				daemon := s.Status(t).Daemon.PID
				if owners, err := s.Lab.Host.SocketOwners(portolan.TCP, seen, s.Internet.TCPEcho[0].Addr); err != nil || !slices.Equal(owners, []int{daemon}) {
					t.Errorf("the socket belongs to %v (%v), want the daemon %d", owners, err, daemon)
				}
			},
		},
		{
			"no docker0 on the host", noDocker0,
			"the bridge docker0 is inside the machine, and the host has no interface of Docker's",
			func(t *testing.T, s *stage.Stage) {
				var names []string
				err := s.Lab.Host.Do(func() error {
					ifaces, err := net.Interfaces()
					for _, i := range ifaces {
						names = append(names, i.Name)
					}
					return err
				})
				if err != nil || !slices.Equal(slices.Sorted(slices.Values(names)), []string{"lan0", "lo"}) {
					t.Errorf("the host's interfaces: %q (%v)", names, err)
				}
				inside := s.Toolbox(t, []string{"--network", "host"}, "ifaces").Ifaces
				if !slices.ContainsFunc(inside, func(i testimage.Interface) bool { return i.Name == "docker0" }) {
					t.Errorf("no docker0 in the machine: %+v", inside)
				}
			},
		},
		{
			"python -m http.server 8000; docker run --rm -it alpine sh; curl http://host.docker.internal:8000", toHost,
			"host.docker.internal is the host: a server there, on all addresses or on localhost only, answers a container",
			func(t *testing.T, s *stage.Stage) {
				s.Lab.StartWeb(t, s.Lab.Host, "0.0.0.0:8000")
				s.Lab.StartWeb(t, s.Lab.Host, "127.0.0.1:8001")
				for _, port := range []string{"8000", "8001"} {
					if got := s.Toolbox(t, nil, "get", "http://host.docker.internal:"+port); strings.TrimSpace(got.Body) != "hello" {
						t.Errorf("port %s: %+v", port, got)
					}
				}
			},
		},
		{
			"gateway.docker.internal", toHost,
			"the gateway has a name, and answers",
			func(t *testing.T, s *stage.Stage) {
				found := s.Toolbox(t, nil, "lookup", "gateway.docker.internal")
				if found.Outcome != testimage.OK || len(found.Answers) == 0 {
					t.Fatalf("look up the gateway: %+v", found)
				}
				for _, ip := range found.Answers {
					if got := s.Toolbox(t, nil, "ping", ip); got.Outcome != testimage.OK {
						t.Errorf("ping %s: %+v", ip, got)
					}
				}
			},
		},
		{
			"sudo ifconfig lo0 alias ADDRESS", []string{"001 I want to connect from a container to a service on the host"},
			"a service on an address that was added to the host's loopback interface, or on all addresses, is reached at that address",
			func(t *testing.T, s *stage.Stage) {
				s.Lab.StartWeb(t, s.Lab.Host, address(lab.HostAliasV4, 8000))
				s.Lab.StartWeb(t, s.Lab.Host, "0.0.0.0:8001")
				for _, port := range []uint16{8000, 8001} {
					if got := s.Toolbox(t, nil, "get", "http://"+address(lab.HostAliasV4, port)); strings.TrimSpace(got.Body) != "hello" {
						t.Errorf("port %d: %+v", port, got)
					}
				}
			},
		},
	}
}

// networks are the examples of `docker network`.
func networks() []example {
	return []example{
		{
			"docker network ls", []string{"004 网络连接", "003 Network Driver", "003 Bridge Network ??"},
			"the three networks that are always there, each with its driver",
			func(t *testing.T, s *stage.Stage) {
				got := strings.Split(s.Docker(t, "network", "ls", "--format", "{{.Name}} {{.Driver}} {{.Scope}}"), "\n")
				slices.Sort(got)
				if want := []string{"bridge bridge local", "host host local", "none null local"}; !slices.Equal(got, want) {
					t.Errorf("docker network ls: %q, want %q", got, want)
				}
			},
		},
		{
			"docker run --network none", []string{"004 网络连接", "003 Network Driver"},
			"none connects to nothing: there is only the loopback interface",
			func(t *testing.T, s *stage.Stage) {
				got := s.Toolbox(t, []string{"--network", "none"}, "ifaces")
				if len(got.Ifaces) != 1 || got.Ifaces[0].Name != "lo" {
					t.Errorf("interfaces: %+v", got.Ifaces)
				}
			},
		},
		{
			"docker0 gives each container a MAC and an IP address", []string{"004 网络连接", "004 网络隔离"},
			"each container has a network namespace with an interface, MAC and IP address of its own, of one subnet",
			func(t *testing.T, s *stage.Stage) {
				one, two := eth0(t, s), eth0(t, s)
				if one.MAC == "" || len(one.Addresses) == 0 {
					t.Errorf("eth0: %+v", one)
				}
				// The first has gone before the second starts, and may have had the same addresses.
				if subnet(t, one) != subnet(t, two) {
					t.Errorf("subnets %s and %s, want one", subnet(t, one), subnet(t, two))
				}
				alpine(t, s, "alpine1")
				alpine(t, s, "alpine2")
				const format = "{{.NetworkSettings.Networks.bridge.IPAddress}} {{.NetworkSettings.Networks.bridge.MacAddress}}"
				addrs := strings.Fields(s.Docker(t, "inspect", "-f", format, "alpine1", "alpine2"))
				if len(addrs) != 4 || addrs[0] == addrs[2] || addrs[1] == addrs[3] {
					t.Errorf("addresses of two containers: %q", addrs)
				}
			},
		},
		{
			"docker run -dit --name alpine1 alpine ash", []string{"003 Bridge Network ?? (Use the default bridge network)"},
			"containers on the default bridge are listed by docker network inspect and reach each other by address, not by name",
			func(t *testing.T, s *stage.Stage) {
				alpine(t, s, "alpine1")
				alpine(t, s, "alpine2")
				if got := members(t, s, "bridge"); !slices.Equal(got, []string{"alpine1", "alpine2"}) {
					t.Errorf("docker network inspect bridge lists %q", got)
				}
				reaches(t, s, "alpine1", addressOn(t, s, "alpine2", "bridge"), testimage.OK)
				unknown(t, s, "alpine1", "alpine2")
			},
		},
		{
			"docker network create alpine-net; docker network connect bridge alpine4", []string{"003 Bridge Network ?? (Use user-defined bridge networks)"},
			"on a user-defined network names resolve; who has no network in common is not reached; a container on both reaches all",
			func(t *testing.T, s *stage.Stage) {
				s.Docker(t, "network", "create", "alpine-net")
				t.Cleanup(func() { s.Docker(t, "network", "rm", "alpine-net") })
				for _, name := range []string{"alpine1", "alpine2", "alpine4"} {
					alpine(t, s, name, "--network", "alpine-net")
				}
				alpine(t, s, "alpine3")
				s.Docker(t, "network", "connect", "bridge", "alpine4")

				if got := members(t, s, "bridge"); !slices.Equal(got, []string{"alpine3", "alpine4"}) {
					t.Errorf("on bridge: %q", got)
				}
				if got := members(t, s, "alpine-net"); !slices.Equal(got, []string{"alpine1", "alpine2", "alpine4"}) {
					t.Errorf("on alpine-net: %q", got)
				}
				for _, from := range []string{"alpine1", "alpine4"} {
					for _, to := range []string{"alpine1", "alpine2", "alpine4"} {
						ip := addressOn(t, s, to, "alpine-net")
						resolves(t, s, from, to, ip)
						reaches(t, s, from, ip, testimage.OK)
					}
					unknown(t, s, from, "alpine3")
				}
				third := addressOn(t, s, "alpine3", "bridge")
				reaches(t, s, "alpine1", third, testimage.Timeout)
				reaches(t, s, "alpine4", third, testimage.OK)
			},
		},
	}
}

// eth0 is the interface of a new container on the default bridge.
func eth0(t *testing.T, s *stage.Stage) testimage.Interface {
	t.Helper()
	found := s.Toolbox(t, nil, "ifaces").Ifaces
	i := slices.IndexFunc(found, func(i testimage.Interface) bool { return i.Name == "eth0" })
	if i < 0 {
		t.Fatalf("no eth0: %+v", found)
	}
	return found[i]
}

// subnet is the network of an interface's first address.
func subnet(t *testing.T, i testimage.Interface) string {
	t.Helper()
	_, network, err := net.ParseCIDR(i.Addresses[0])
	if err != nil {
		t.Fatal(err)
	}
	return network.String()
}

// members lists the containers of a network, sorted.
func members(t *testing.T, s *stage.Stage, network string) []string {
	t.Helper()
	names := strings.Fields(s.Docker(t, "network", "inspect", "-f", "{{range .Containers}}{{.Name}} {{end}}", network))
	slices.Sort(names)
	return names
}

// addressOn is a container's IPv4 address on a network.
func addressOn(t *testing.T, s *stage.Stage, container, network string) string {
	t.Helper()
	return s.Docker(t, "inspect", "-f", `{{(index .NetworkSettings.Networks "`+network+`").IPAddress}}`, container)
}

// reaches pings an address from a container.
func reaches(t *testing.T, s *stage.Stage, from, ip string, want testimage.Outcome) {
	t.Helper()
	if got := s.Exec(t, from, "ping", ip, "-timeout", "2s"); got.Outcome != want {
		t.Errorf("ping %s from %s: %s (%s), want %s", ip, from, got.Outcome, got.Error, want)
	}
}

// resolves looks a name up in a container.
func resolves(t *testing.T, s *stage.Stage, from, name, want string) {
	t.Helper()
	if got := s.Exec(t, from, "lookup", name); !slices.Contains(got.Answers, want) {
		t.Errorf("%s in %s is %s %q, want %q", name, from, got.Outcome, got.Answers, want)
	}
}

// unknown checks that a container can't resolve a name while it can others. How
// the answer for a name of one label reads is the matter of the host's resolver.
func unknown(t *testing.T, s *stage.Stage, from, name string) {
	t.Helper()
	if got := s.Exec(t, from, "lookup", name); got.Outcome == testimage.OK || len(got.Answers) != 0 {
		t.Errorf("%s in %s is %s %q, want no such name", name, from, got.Outcome, got.Answers)
	}
	resolves(t, s, from, "web.internet.test", lab.WebV4)
}
