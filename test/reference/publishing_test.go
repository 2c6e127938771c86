package reference

import (
	"context"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/portolan-net/portolan/internal/lab"
	"github.com/portolan-net/portolan/internal/stage"
)

// publishing are the examples of `docker run -p` and `-P`.
func publishing() []example {
	mapping := []string{"000 端口映射", "001 Port Mapping(端口映射)", "002 ポートマッピング"}
	toContainer := []string{"000 我想从宿主机连接到容器", "001 I want to connect to a container from the Mac", "002 Mac からコンテナに対して接続したい"}
	return []example{
		{
			"docker run -p 80:80 -d nginx", mapping,
			"what serves on port 80 in the container is on port 80 of localhost",
			func(t *testing.T, s *stage.Stage) {
				nginx(t, s, "-p", "80:80")
				welcomes(t, s, "127.0.0.1:80", "[::1]:80")
			},
		},
		{
			"docker run -p 8000:80 -d nginx", mapping,
			"the host's port comes first: a web server of the host's own keeps port 80, and localhost:8000 is the container's 80",
			func(t *testing.T, s *stage.Stage) {
				s.Lab.StartWeb(t, s.Lab.Host, "0.0.0.0:80")
				nginx(t, s, "-p", "8000:80")
				welcomes(t, s, "127.0.0.1:8000", "[::1]:8000")
				if got, err := stage.Fetch(t, s.Lab.Host, "127.0.0.1:80", "/"); err != nil || got != "hello" {
					t.Errorf("the host's own server says %q (%v)", got, err)
				}
			},
		},
		{
			"docker run -d -p 80:80 --name webserver nginx", toContainer,
			"a named, detached web server answers on localhost, and other containers reach it by its address",
			func(t *testing.T, s *stage.Stage) {
				nginx(t, s, "-p", "80:80", "--name", "webserver")
				welcomes(t, s, "127.0.0.1:80", "[::1]:80")
				ip := s.Docker(t, "inspect", "-f", "{{.NetworkSettings.Networks.bridge.IPAddress}}", "webserver")
				if got := s.Toolbox(t, nil, "get", "http://"+ip+"/"); !strings.Contains(got.Body, "Welcome to nginx") {
					t.Errorf("from another container: %+v", got)
				}
			},
		},
		{
			"docker run --publish 8000:80 --name webserver nginx", toContainer,
			"the long flag, in the foreground: port 8000 of the host is the container's 80 until it is removed",
			func(t *testing.T, s *stage.Stage) { inForeground(t, s, "--publish") },
		},
		{
			"docker run -p 8000:80 --name webserver nginx", toContainer,
			"the short flag does the same",
			func(t *testing.T, s *stage.Stage) { inForeground(t, s, "-p") },
		},
		{
			"docker run -d -P --name webserver nginx", toContainer,
			"all exposed ports get a random port of the host each, which docker port tells",
			func(t *testing.T, s *stage.Stage) {
				nginx(t, s, "-P", "--name", "webserver")
				addr := netip.MustParseAddrPort(firstLine(s.Docker(t, "port", "webserver", "80")))
				if addr.Addr() != netip.IPv4Unspecified() || addr.Port() < 1024 {
					t.Errorf("port 80 is published at %s, want 0.0.0.0 and a port that needs no privilege", addr)
				}
				welcomes(t, s, address("127.0.0.1", addr.Port()), address("::1", addr.Port()))
				if got := s.Docker(t, "port", "webserver"); strings.Count(got, "->") != 2 {
					t.Errorf("docker port says %q, want port 80 for IPv4 and IPv6", got)
				}
			},
		},
		{
			"docker run -d -P training/webapp python app.py; docker container ls -l", []string{"004 外部访问容器"},
			"the list of containers shows which port of the host was chosen for the exposed port 5000, and it answers",
			func(t *testing.T, s *stage.Stage) {
				webapp(t, s, "-P")
				ports := s.Docker(t, "container", "ls", "-l", "--format", "{{.Ports}}")
				host, container, found := strings.Cut(strings.Split(ports, ",")[0], "->")
				addr, err := netip.ParseAddrPort(host)
				if !found || err != nil || container != "5000/tcp" {
					t.Fatalf("docker container ls says %q, want 0.0.0.0:PORT->5000/tcp", ports)
				}
				answers(t, s.Lab.Host, address("127.0.0.1", addr.Port()))
			},
		},
		{
			"docker logs -f nostalgic_morse", []string{"004 外部访问容器"},
			"the application's log names the clients: another computer by its own address",
			func(t *testing.T, s *stage.Stage) {
				nginx(t, s, "-p", "8000:80", "--name", "nostalgic_morse")
				answers(t, s.Lab.Neighbour, address(lab.HostV4, 8000))
				stage.Eventually(t, 5*time.Second, "nginx logs the request", func() bool {
					return strings.Contains(s.Docker(t, "logs", "nostalgic_morse"), lab.NeighbourV4+` - - [`)
				})
			},
		},
		{
			"docker run -p with a port that has a container", []string{"004 外部访问容器"},
			"only one container can be bound to a port: the second does not start and is told which port, the first goes on",
			func(t *testing.T, s *stage.Stage) {
				webapp(t, s, "-p", "5000:5000")
				out, code := s.TryDocker(t, "run", "-d", "--name", "second", "-p", "5000:5000", "training/webapp", "web", "-addr", ":5000")
				t.Cleanup(func() { s.Docker(t, "rm", "-f", "second") })
				if code == 0 || !strings.Contains(out, "5000") || !strings.Contains(out, "port is already allocated") {
					t.Errorf("the second ends with %d: %s", code, out)
				}
				answers(t, s.Lab.Host, "127.0.0.1:5000")
			},
		},
		{
			"docker run -d -p 5000:5000 training/webapp python app.py", []string{"004 映射所有接口地址"},
			"without an address the port is on every address of the host, for other computers too",
			func(t *testing.T, s *stage.Stage) {
				webapp(t, s, "-p", "5000:5000")
				for _, ip := range []string{"127.0.0.1", "::1", lab.HostV4, lab.HostV6, lab.HostAliasV4, lab.HostAliasV6} {
					answers(t, s.Lab.Host, address(ip, 5000))
				}
				answers(t, s.Lab.Neighbour, address(lab.HostV4, 5000), address(lab.HostV6, 5000))
			},
		},
		{
			"docker run -d -p 127.0.0.1:5000:5000 training/webapp python app.py", []string{"004 映射到指定地址的指定端口"},
			"with 127.0.0.1 the port is on that address only: not on the host's others, not for other computers",
			func(t *testing.T, s *stage.Stage) {
				webapp(t, s, "-p", "127.0.0.1:5000:5000")
				answers(t, s.Lab.Host, "127.0.0.1:5000")
				refuses(t, s.Lab.Host, "[::1]:5000", address(lab.HostV4, 5000))
				refuses(t, s.Lab.Neighbour, address(lab.HostV4, 5000), address(lab.HostV6, 5000))
			},
		},
		{
			"docker run -d -p 127.0.0.1::5000 training/webapp python app.py", []string{"004 映射到指定地址的任意端口"},
			"without a port of the host, one is chosen on that address only",
			func(t *testing.T, s *stage.Stage) {
				id := webapp(t, s, "-p", "127.0.0.1::5000")
				addr := netip.MustParseAddrPort(s.Docker(t, "port", id, "5000"))
				if addr.Addr().String() != "127.0.0.1" || addr.Port() < 1024 {
					t.Errorf("published at %s, want 127.0.0.1 and a port that needs no privilege", addr)
				}
				answers(t, s.Lab.Host, addr.String())
				refuses(t, s.Lab.Neighbour, address(lab.HostV4, addr.Port()))
			},
		},
		{
			"docker run -d -p 127.0.0.1:5000:5000/udp training/webapp python app.py", []string{"004 映射到指定地址的任意端口"},
			"with /udp datagrams are carried to the container and back, and TCP is not",
			func(t *testing.T, s *stage.Stage) {
				running(t, s, "listening", "-p", "127.0.0.1:5000:5000/udp", "training/webapp", "echo-udp", "-addr", ":5000")
				if got, err := stage.Ask(t, s.Lab.Host, "127.0.0.1:5000", "question"); err != nil || got != "question" {
					t.Errorf("the echo is %q (%v)", got, err)
				}
				refuses(t, s.Lab.Host, "127.0.0.1:5000")
			},
		},
		{
			"docker run -d -p 5000:5000 -p 3000:80 training/webapp python app.py", []string{"004 查看映射端口配置"},
			"-p may be given several times, and each port leads to its own",
			func(t *testing.T, s *stage.Stage) {
				id := webapp(t, s, "-p", "5000:5000", "-p", "3000:80")
				s.Docker(t, "exec", "-d", id, "/bin/toolbox", "web", "-addr", ":80", "-name", "second")
				answers(t, s.Lab.Host, "127.0.0.1:5000")
				stage.Eventually(t, 10*time.Second, "port 3000 leads to port 80", func() bool {
					got, err := stage.Fetch(t, s.Lab.Host, "127.0.0.1:3000", "/")
					return err == nil && strings.Contains(got, `"second"`)
				})
			},
		},
	}
}

// inForeground runs nginx as the documents do without -d: the command lasts as
// long as the container.
func inForeground(t *testing.T, s *stage.Stage, flag string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cmd := s.Command(ctx, "docker", "run", flag, "8000:80", "--name", "webserver", "nginx")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		s.Docker(t, "rm", "-f", "webserver")
		if err := cmd.Wait(); err == nil || ctx.Err() != nil {
			t.Errorf("docker run ends with %v, want the exit code of a killed container", err)
		}
		refuses(t, s.Lab.Host, "127.0.0.1:8000", "[::1]:8000")
	}()
	stage.Eventually(t, 20*time.Second, "nginx answers at port 8000", func() bool {
		got, err := stage.Fetch(t, s.Lab.Host, "127.0.0.1:8000", "/")
		return err == nil && strings.Contains(got, "Welcome to nginx")
	})
	welcomes(t, s, "[::1]:8000")
}

func firstLine(text string) string {
	line, _, _ := strings.Cut(text, "\n")
	return line
}

// portQueries are the examples of `docker port`.
func portQueries() []example {
	mapping := []string{"003 Port Mapping ??"}
	const run = "docker run -p 8080:80 -name my-container ...; "
	return []example{
		{
			run + "docker port my-container 80", mapping,
			"docker port names the host's address and port of a container's port, with and without /tcp, and of all",
			func(t *testing.T, s *stage.Stage) {
				nginx(t, s, "-p", "8080:80", "--name", "my-container")
				const want = "0.0.0.0:8080\n[::]:8080"
				for _, port := range []string{"80", "80/tcp"} {
					if got := s.Docker(t, "port", "my-container", port); got != want {
						t.Errorf("docker port my-container %s: %q, want %q", port, got, want)
					}
				}
				if got := s.Docker(t, "port", "my-container"); got != "80/tcp -> 0.0.0.0:8080\n80/tcp -> [::]:8080" {
					t.Errorf("docker port my-container: %q", got)
				}
			},
		},
		{
			run + "docker port my-container 80/udp", mapping,
			"a port that was published for TCP is not published for UDP, and docker port says so",
			func(t *testing.T, s *stage.Stage) {
				nginx(t, s, "-p", "8080:80", "--name", "my-container")
				out, code := s.TryDocker(t, "port", "my-container", "80/udp")
				if code == 0 || !strings.Contains(strings.ToLower(out), "no public port '80/udp' published for my-container") {
					t.Errorf("exit code %d: %s", code, out)
				}
			},
		},
		{
			"EXPOSE", mapping,
			"an exposed port is only a remark: without -p or -P it is on no address of the host",
			func(t *testing.T, s *stage.Stage) {
				id := nginx(t, s)
				if got := s.Docker(t, "port", id); got != "" {
					t.Errorf("docker port says %q", got)
				}
				refuses(t, s.Lab.Host, "127.0.0.1:80", "[::1]:80", address(lab.HostV4, 80))
			},
		},
		{
			"docker run --expose ... -P", mapping,
			"--expose adds a port that -P publishes",
			func(t *testing.T, s *stage.Stage) {
				id := running(t, s, "listening", "--expose", "7000", "-P", "training/webapp", "web", "-addr", ":7000")
				addr := netip.MustParseAddrPort(firstLine(s.Docker(t, "port", id, "7000")))
				answers(t, s.Lab.Host, address("127.0.0.1", addr.Port()))
			},
		},
		{
			"docker port nostalgic_morse 5000", []string{"004 查看映射端口配置"},
			"the address that a port is bound to is shown; the container has an address of its own besides, in docker inspect",
			func(t *testing.T, s *stage.Stage) {
				webapp(t, s, "-p", "127.0.0.1:49155:5000", "--name", "nostalgic_morse")
				if got := s.Docker(t, "port", "nostalgic_morse", "5000"); got != "127.0.0.1:49155" {
					t.Errorf("docker port says %q", got)
				}
				ip := s.Docker(t, "inspect", "-f", "{{.NetworkSettings.Networks.bridge.IPAddress}}", "nostalgic_morse")
				if addr, err := netip.ParseAddr(ip); err != nil || !addr.IsPrivate() {
					t.Errorf("docker inspect says that the container's address is %q", ip)
				}
			},
		},
	}
}
