package publish_test

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/portolan-net/portolan/internal/lab"
	"github.com/portolan-net/portolan/internal/stage"
	"github.com/portolan-net/portolan/internal/testimage"
)

// bound is what is published, as "tcp 0.0.0.0:8080 80", sorted.
func bound(t *testing.T, s *stage.Stage) []string {
	t.Helper()
	var list []string
	for _, p := range ports(t, s) {
		if p.Error != "" {
			t.Errorf("%s: %s", p.Binding, p.Error)
		}
		list = append(list, fmt.Sprintf("%s %s %d", p.Proto, p.Host, p.Container.Port()))
	}
	slices.Sort(list)
	return list
}

// both are the bindings of a port that names no address.
func both(proto string, host, container int) []string {
	return []string{fmt.Sprintf("%s 0.0.0.0:%d %d", proto, host, container), fmt.Sprintf("%s [::]:%d %d", proto, host, container)}
}

// row is both for n ports one to one.
func row(proto string, host, container, n int) []string {
	var all []string
	for i := range n {
		all = append(all, both(proto, host+i, container+i)...)
	}
	return all
}

func checkForms(t *testing.T, s *stage.Stage) {
	// A range for one port gives the first that is free.
	s.Serve(t, "first", []string{"-p", "9000-9099:80"}, "web", "-name", "first")
	for _, c := range []struct {
		flags []string
		want  []string
	}{
		{[]string{"-p", "9000-9099:80"}, both("tcp", 9001, 80)},
		{[]string{"-p", "3000-3005:4000-4005"}, row("tcp", 3000, 4000, 6)},
		{[]string{"-p", "3000-3002:3000-3002/udp"}, row("udp", 3000, 3000, 3)},
		{[]string{"-p", "7000:7", "-p", "7000:7/udp"}, append(both("tcp", 7000, 7), both("udp", 7000, 7)...)},
		{[]string{"-p", "127.0.0.1:8080:80", "-p", lab.HostV4 + ":8080:81", "-p", "[::1]:8080:82"}, []string{"tcp 127.0.0.1:8080 80", "tcp " + lab.HostV4 + ":8080 81", "tcp [::1]:8080 82"}},
		{[]string{"-p", "[" + lab.HostV6 + "]:8080-8081:80-81"}, []string{"tcp [" + lab.HostV6 + "]:8080 80", "tcp [" + lab.HostV6 + "]:8081 81"}},
		{[]string{"--publish", "target=80,published=8080,protocol=udp,mode=host"}, both("udp", 8080, 80)},
		{[]string{"--publish", "published=8080,target=80"}, both("tcp", 8080, 80)},
		{[]string{"--expose", "80", "--expose", "7000-7010/udp"}, nil}, // says something and publishes nothing
	} {
		s.Docker(t, append(append([]string{"run", "-d", "--name", "form"}, c.flags...), testimage.Name, "sleep", "1h")...)
		want := append(c.want, both("tcp", 9000, 80)...)
		slices.Sort(want)
		if got := bound(t, s); !slices.Equal(got, want) {
			t.Errorf("docker run %s publishes %q, want %q", strings.Join(c.flags, " "), got, want)
		}
		s.Docker(t, "rm", "-f", "form")
	}
}

// composeForms has a port in every form of the Compose specification.
const composeForms = `
name: forms
services:
  web:
    image: ` + testimage.Name + `
    command: web -name composed
    expose: ["81"]
    ports:
      - "8080:80"
      - "3000-3002:4000-4002"
      - "9000-9009:80"
      - "127.0.0.1:8081:80"
      - "127.0.0.1:5000-5001:5000-5001"
      - "[::1]:8082:80"
      - "::1:6000:6000"
      - "6060:6060/udp"
      - "6060:6060/tcp"
      - {target: 80, published: 8090}
      - {target: 80, published: "8091", host_ip: 127.0.0.1, protocol: tcp, mode: host}
      - {target: 53, published: "8092", host_ip: "::1", protocol: udp, mode: ingress}
      - {target: 80, published: "8093-8099", name: web, app_protocol: http}
`

// composeRandom leaves the host's ports to the engine.
const composeRandom = `
name: random
services:
  web:
    image: ` + testimage.Name + `
    command: web
    ports:
      - "3000"
      - "3010-3012/udp"
      - "127.0.0.1::5000"
      - {target: 90, mode: host}
`

// composeFile writes a file for compose, and returns where it is.
func composeFile(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "compose.yaml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func checkComposeRandom(t *testing.T, s *stage.Stage) {
	path := composeFile(t, composeRandom)
	s.Docker(t, "compose", "-f", path, "up", "-d", "--quiet-pull")
	list := ports(t, s)
	s.Docker(t, "compose", "-f", path, "down", "-t", "0")
	var got []string
	for _, p := range list {
		if port := p.Host.Port(); port < 49000 || port > 49900 || p.Error != "" {
			t.Errorf("%s is published at port %d (%s), want 49000 to 49900", p.Container, port, p.Error)
		}
		got = append(got, fmt.Sprintf("%s %s %d", p.Proto, p.Host.Addr(), p.Container.Port()))
	}
	want := []string{"tcp 127.0.0.1 5000"}
	for _, port := range []string{"tcp %s 3000", "udp %s 3010", "udp %s 3011", "udp %s 3012", "tcp %s 90"} {
		want = append(want, fmt.Sprintf(port, "0.0.0.0"), fmt.Sprintf(port, "::"))
	}
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("compose publishes %q, want %q", got, want)
	}
}

// checkComposeRefused has compose say what it does not publish.
func checkComposeRefused(t *testing.T, s *stage.Stage) {
	for port, want := range map[string]string{
		"8080:80/sctp":      "8080",
		"localhost:8080:80": "localhost",
		"8080-8081:80-82":   "8080-8081",
	} {
		path := composeFile(t, fmt.Sprintf("name: refused\nservices:\n  web:\n    image: %s\n    ports: [%q]\n", testimage.Name, port))
		out, code := s.TryDocker(t, "compose", "-f", path, "up", "-d", "--quiet-pull")
		s.TryDocker(t, "compose", "-p", "refused", "down", "-t", "0")
		if code == 0 || !strings.Contains(out, want) {
			t.Errorf("compose with ports %s: exit code %d: %s", port, code, out)
		}
	}
}

func checkCompose(t *testing.T, s *stage.Stage) {
	path := composeFile(t, composeForms)
	s.Docker(t, "compose", "-f", path, "up", "-d", "--quiet-pull")
	t.Cleanup(func() { s.Docker(t, "compose", "-f", path, "down", "-t", "0") })
	want := slices.Concat(
		both("tcp", 8080, 80), row("tcp", 3000, 4000, 3), both("tcp", 9000, 80), []string{"tcp 127.0.0.1:8081 80"},
		[]string{"tcp 127.0.0.1:5000 5000", "tcp 127.0.0.1:5001 5001", "tcp [::1]:8082 80", "tcp [::1]:6000 6000"},
		both("udp", 6060, 6060), both("tcp", 6060, 6060), both("tcp", 8090, 80), []string{"tcp 127.0.0.1:8091 80", "udp [::1]:8092 53"},
		both("tcp", 8093, 80),
	)
	slices.Sort(want)
	if got := bound(t, s); !slices.Equal(got, want) {
		t.Errorf("compose publishes\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	for _, addr := range []string{"127.0.0.1:8080", "[::1]:8082", lab.HostV4 + ":9000", "127.0.0.1:8091", "[" + lab.HostV6 + "]:8093"} {
		stage.Eventually(t, limit, "compose's service answers at "+addr, func() bool {
			got, err := stage.Fetch(t, s.Lab.Host, addr, "/")
			return err == nil && strings.Contains(got, `"name":"composed"`)
		})
	}
}

// checkClients asks with the programs that people have.
func checkClients(t *testing.T, s *stage.Stage) {
	s.Serve(t, "web", []string{"-p", "8080:80"}, "web", "-name", "web")
	s.Serve(t, "echo", []string{"-p", "7000:7"}, "echo-tcp", "-mode", "after-eof")
	s.Serve(t, "dns", []string{"-p", "5300:53", "-p", "5300:53/udp"}, "dns", "198.51.100.99")
	for _, node := range []*lab.Node{s.Lab.Host, s.Lab.Neighbour} {
		for _, addr := range []string{lab.HostV4, lab.HostV6} {
			url := "http://" + net.JoinHostPort(addr, "8080") + "/"
			for _, c := range []struct{ command, want string }{
				{"curl -sS --max-time 10 " + url, `"name":"web"`},
				{"dig +short +time=5 +tries=1 -p 5300 @" + addr + " anything.test", "198.51.100.99"},
				{"dig +short +time=5 +tries=1 +tcp -p 5300 @" + addr + " anything.test", "198.51.100.99"},
				{"echo hello | busybox nc -w 5 " + addr + " 7000", "hello"},
			} {
				if out, err := node.Command(t.Context(), "sh", "-c", c.command).CombinedOutput(); err != nil || !strings.Contains(string(out), c.want) {
					t.Errorf("%s: %s: %q (%v), want %s", node.Name, c.command, out, err, c.want)
				}
			}
		}
	}
}
