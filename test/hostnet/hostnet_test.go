// Package hostnet_test holds what `--network host` promises: docs/host-networking.md
// says it for people.
package hostnet_test

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/portolan-net/portolan/internal/api"
	"github.com/portolan-net/portolan/internal/lab"
	"github.com/portolan-net/portolan/internal/stage"
	"github.com/portolan-net/portolan/internal/testimage"
)

const (
	// limit is a deadline that only a hang reaches.
	limit = 20 * time.Second
	// promised is how soon a port is on the host, or gone; five times that is
	// what a busy computer is given.
	promised = 200 * time.Millisecond
)

func TestHostNetwork(t *testing.T) { checkAll(t, stage.Up(t)) }

// An ordinary user's containers have the same.
func TestHostNetworkRootless(t *testing.T) { checkAll(t, stage.UpUser(t)) }

func checkAll(t *testing.T, s *stage.Stage) {
	for _, part := range []struct {
		name  string
		check func(*testing.T, *stage.Stage)
	}{
		{"ports appear on the host", checkPorts},
		{"ports on loopback", checkLoopback},
		{"open and close in time", checkTimes},
		{"services of the host at once", checkServicesAtOnce},
		{"services of the host", checkServices},
		{"a service and a container on one port", checkYield},
		{"containers on bridges gain nothing", checkBridge},
		{"a taken port", checkTaken},
		{"-p is discarded with a warning", checkPublishWarning},
		{"only containers' ports", checkOnlyContainers},
		{"portBindingBehavior", checkBinding},
		{"switched off", checkOff},
		{"the daemon is killed", checkDaemonKilled},
		{"the agent is killed", checkAgentKilled},
		{"dockerd is killed", checkEngineKilled},
	} {
		t.Run(part.name, func(t *testing.T) { part.check(t, s) })
		stage.Eventually(t, limit, "no port is left after: "+part.name, func() bool { return len(ports(t, s)) == 0 })
	}
}

// ports is `portolan ports --json`.
func ports(t *testing.T, s *stage.Stage) []api.Port {
	t.Helper()
	var list []api.Port
	text := s.Portolan(t, "ports", "--json")
	if err := json.Unmarshal([]byte(text), &list); err != nil {
		t.Fatalf("portolan ports: %v\n%s", err, text)
	}
	return list
}

// names are the ports' protocols and addresses, sorted.
func names(ports []api.Port) []string {
	var list []string
	for _, p := range ports {
		list = append(list, fmt.Sprintf("%s %s", p.Proto, p.Host))
	}
	slices.Sort(list)
	return list
}

// onHost waits until exactly these ports are on the host.
func onHost(t *testing.T, s *stage.Stage, want ...string) {
	t.Helper()
	slices.Sort(want)
	var got []string
	defer func() {
		if t.Failed() {
			t.Logf("on the host: %q, want %q", got, want)
		}
	}()
	stage.Eventually(t, limit, "the ports are on the host", func() bool {
		got = names(ports(t, s))
		return slices.Equal(got, want)
	})
}

// serve starts a toolbox server on the host network.
func serve(t *testing.T, s *stage.Stage, name string, args ...string) {
	t.Helper()
	s.Serve(t, name, []string{"--network", "host"}, args...)
}

// visitor is how the web server at addr sees who asks.
func visitor(t *testing.T, node *lab.Node, addr string) (testimage.Visitor, error) {
	t.Helper()
	var v testimage.Visitor
	text, err := stage.Fetch(t, node, addr, "/")
	if err == nil {
		err = json.Unmarshal([]byte(text), &v)
	}
	return v, err
}

func checkPorts(t *testing.T, s *stage.Stage) {
	serve(t, s, "web", "web", "-addr", ":8080", "-name", "web")
	serve(t, s, "four", "web", "-addr", "0.0.0.0:8081", "-name", "four") // both families: Go's way
	serve(t, s, "udp", "echo-udp", "-addr", ":7000", "-mode", "whoami")
	onHost(t, s, "tcp 0.0.0.0:8080", "tcp [::]:8080", "tcp 0.0.0.0:8081", "tcp [::]:8081", "udp 0.0.0.0:7000", "udp [::]:7000")
	host := s.Status(t).Link.Host()
	lan := s.Lab.Neighbour
	for _, c := range []struct {
		from         *lab.Node
		addr, client string
	}{
		{s.Lab.Host, "127.0.0.1:8080", host.V4.String()},
		{s.Lab.Host, "[::1]:8080", host.V6.String()},
		{lan, lab.HostV4 + ":8080", lab.NeighbourV4},
		{lan, "[" + lab.HostV6 + "]:8080", lab.NeighbourV6},
	} {
		v, err := visitor(t, c.from, c.addr)
		client, _, _ := net.SplitHostPort(v.Client)
		if err != nil || v.Name != "web" || client != c.client {
			t.Errorf("get from %s: %+v, %v; want client %s", c.addr, v, err, c.client)
		}
	}
	for addr, client := range map[string]string{"127.0.0.1:7000": host.V4.String(), "[::1]:7000": host.V6.String()} {
		if got, err := stage.Ask(t, s.Lab.Host, addr, "x"); err != nil || !strings.Contains(got, client) {
			t.Errorf("ask %s: %q, %v; want %s", addr, got, err, client)
		}
	}
	if got, err := stage.Ask(t, lan, lab.HostV4+":7000", "x"); err != nil || !strings.Contains(got, lab.NeighbourV4) {
		t.Errorf("ask from the LAN: %q, %v", got, err)
	}
	table := s.Portolan(t, "ports")
	for _, want := range []string{"web:8080", "four:8081", "udp:7000", "host network"} {
		if !strings.Contains(table, want) {
			t.Errorf("portolan ports does not show %q:\n%s", want, table)
		}
	}
}

// A port on the machine's loopback is on the host's, and not for the LAN.
func checkLoopback(t *testing.T, s *stage.Stage) {
	serve(t, s, "four", "web", "-addr", "127.0.0.1:8080", "-name", "four")
	serve(t, s, "six", "web", "-addr", "[::1]:8080", "-name", "six")
	serve(t, s, "udp4", "echo-udp", "-addr", "127.0.0.1:7000")
	serve(t, s, "udp6", "echo-udp", "-addr", "[::1]:7000")
	onHost(t, s, "tcp 127.0.0.1:8080", "tcp [::1]:8080", "udp 127.0.0.1:7000", "udp [::1]:7000")
	for addr, name := range map[string]string{"127.0.0.1:8080": "four", "[::1]:8080": "six"} {
		if v, err := visitor(t, s.Lab.Host, addr); err != nil || v.Name != name || v.Local != addr {
			t.Errorf("get from %s: %+v, %v", addr, v, err)
		}
	}
	if text, err := stage.Fetch(t, s.Lab.Host, "127.0.0.1:8080", "/bytes/1000000"); err != nil || len(text) < 1_000_000 {
		t.Errorf("get a million bytes: %d, %v", len(text), err)
	}
	for _, addr := range []string{"127.0.0.1:7000", "[::1]:7000"} {
		if got, err := stage.Ask(t, s.Lab.Host, addr, "hello"); err != nil || got != "hello" {
			t.Errorf("ask %s: %q, %v", addr, got, err)
		}
	}
	if conn, err := s.Lab.Neighbour.Dial(t.Context(), "tcp", lab.HostV4+":8080"); err == nil {
		conn.Close()
		t.Error("the LAN reaches a port on loopback")
	}
}

// listening waits until the host has the port, or has it no longer, and returns
// when that was.
func listening(t *testing.T, s *stage.Stage, port uint16, want bool) time.Time {
	t.Helper()
	stage.Eventually(t, limit, fmt.Sprintf("port %d on the host: %v", port, want), func() bool {
		sockets, err := s.Lab.Host.Sockets()
		if err != nil {
			t.Fatal(err)
		}
		return want == slices.ContainsFunc(sockets, func(o lab.Socket) bool { return o.Local.Port() == port && !o.Remote.IsValid() })
	})
	return time.Now()
}

func checkTimes(t *testing.T, s *stage.Stage) {
	serve(t, s, "keeps", "web", "-addr", ":8080") // from the second container on it is a matter of sockets alone
	onHost(t, s, "tcp 0.0.0.0:8080", "tcp [::]:8080")
	for _, args := range [][]string{{"web", "-addr", ":8090"}, {"echo-udp", "-addr", ":8090"}} {
		for range 3 {
			s.Docker(t, append([]string{"run", "-d", "--name", "quick", "--network", "host", testimage.Name}, args...)...)
			// The container's process says that it listens when it does, in a line with its time.
			opened := loggedAt(t, s, "quick", "listening")
			seen := listening(t, s, 8090, true)
			if took := seen.Sub(opened); took > 5*promised {
				t.Errorf("%s: on the host after %s, %s is promised", args[0], took, promised)
			} else {
				t.Logf("%s: on the host after %s", args[0], took)
			}
			s.Docker(t, "kill", "quick")
			gone := listening(t, s, 8090, false)
			if took := gone.Sub(endedAt(t, s, "quick")); took > 5*promised {
				t.Errorf("%s: gone from the host after %s, %s is promised", args[0], took, promised)
			} else {
				t.Logf("%s: gone from the host after %s", args[0], took)
			}
			s.Docker(t, "rm", "-f", "quick")
		}
	}
}

// endedAt is when the engine saw the container's process end.
func endedAt(t *testing.T, s *stage.Stage, container string) time.Time {
	t.Helper()
	text := s.Docker(t, "inspect", "-f", "{{.State.FinishedAt}}", container)
	at, err := time.Parse(time.RFC3339Nano, text)
	if err != nil || at.IsZero() {
		t.Fatalf("%s ended at %q: %v", container, text, err)
	}
	return at
}

// loggedAt is when the container first wrote a line with word.
func loggedAt(t *testing.T, s *stage.Stage, container, word string) time.Time {
	t.Helper()
	var at time.Time
	stage.Eventually(t, limit, container+" says "+word, func() bool {
		for line := range strings.Lines(s.Docker(t, "logs", "-t", container)) {
			stamp, text, _ := strings.Cut(line, " ")
			parsed, err := time.Parse(time.RFC3339Nano, stamp)
			if err == nil && strings.Contains(text, word) {
				at = parsed
				return true
			}
		}
		return false
	})
	return at
}

// hostWord answers every HTTP request to addr on the lab's host with a word.
func hostWord(t *testing.T, s *stage.Stage, addr, word string) net.Listener {
	t.Helper()
	ln, err := s.Lab.Host.Listen("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			// A request that nobody reads would make an RST of the close.
			_, _ = conn.Read(make([]byte, 1<<12))
			_, _ = io.WriteString(conn, "HTTP/1.0 200 OK\r\n\r\n"+word)
			_ = conn.Close()
		}
	}()
	t.Cleanup(func() { ln.Close(); <-done })
	return ln
}

// hostEcho answers datagrams to addr on the lab's host.
func hostEcho(t *testing.T, s *stage.Stage, addr string) {
	t.Helper()
	pc, err := s.Lab.Host.ListenPacket("udp", addr)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		buf := make([]byte, 1<<16)
		for {
			n, from, err := pc.ReadFrom(buf)
			if err != nil {
				return
			}
			_, _ = pc.WriteTo(buf[:n], from)
		}
	}()
	t.Cleanup(func() { pc.Close(); <-done })
}

// within runs a toolbox command in the container until it succeeds.
func within(t *testing.T, s *stage.Stage, container string, args ...string) {
	t.Helper()
	var last testimage.Result
	defer func() {
		if t.Failed() {
			t.Logf("%v in %s: %+v", args, container, last)
		}
	}()
	stage.Eventually(t, limit, strings.Join(args, " ")+" in "+container, func() bool {
		last = s.Exec(t, container, args...)
		return last.Outcome == testimage.OK
	})
}

// client starts a container on the host network that only waits.
func client(t *testing.T, s *stage.Stage) {
	t.Helper()
	s.Docker(t, "run", "-d", "--name", "client", "--network", "host", testimage.Name, "sleep", "1h")
	t.Cleanup(func() { s.Docker(t, "rm", "-f", "client") })
}

// A service of the host is there for the first act of a container, even if it is
// as new as that.
func checkServicesAtOnce(t *testing.T, s *stage.Stage) {
	for i := range 20 {
		addr := fmt.Sprintf("127.0.0.1:%d", 9200+i)
		id := s.Docker(t, "create", "--rm", "--network", "host", testimage.Name, "get", "http://"+addr+"/")
		hostWord(t, s, addr, "host")
		out, _ := s.TryDocker(t, "start", "-a", id)
		if got, err := testimage.Parse([]byte(out)); err != nil || got.Outcome != testimage.OK || got.Body != "host" {
			t.Errorf("container %d gets http://%s/: %s", i, addr, out)
		}
	}
}

func checkServices(t *testing.T, s *stage.Stage) {
	hostWord(t, s, "127.0.0.1:9100", "four")
	hostWord(t, s, "[::1]:9101", "six")
	hostWord(t, s, "0.0.0.0:9102", "any")
	hostEcho(t, s, "127.0.0.1:9100")
	hostEcho(t, s, "[::1]:9101")
	client(t, s)
	for _, args := range [][]string{
		{"get", "http://127.0.0.1:9100/"}, {"get", "http://[::1]:9101/"}, {"get", "http://127.0.0.1:9102/"}, {"get", "http://localhost:9100/"},
		{"udp-send", "127.0.0.1:9100"}, {"udp-send", "[::1]:9101", "-size", "9000"},
	} {
		within(t, s, "client", args...)
	}
	late := hostWord(t, s, "127.0.0.1:9103", "late")
	within(t, s, "client", "get", "http://127.0.0.1:9103/")
	late.Close()
	stage.Eventually(t, limit, "what the host has closed is refused", func() bool {
		return s.Exec(t, "client", "dial", "tcp", "127.0.0.1:9103").Outcome == testimage.Refused
	})
	// Portolan's own: the names of containers are for the host alone.
	if got := s.Exec(t, "client", "dial", "tcp", "127.0.0.1:5399"); got.Outcome != testimage.Refused {
		t.Errorf("the container reaches Portolan's own port: %+v", got)
	}
}

// A container may bind whatever port the host has; from then on it is its own in
// the machine.
func checkYield(t *testing.T, s *stage.Stage) {
	hostWord(t, s, "127.0.0.1:9100", "host")
	client(t, s)
	within(t, s, "client", "get", "http://127.0.0.1:9100/")
	s.Serve(t, "mine", []string{"--network", "host"}, "web", "-addr", "127.0.0.1:9100", "-name", "mine")
	at := func() string { return s.Exec(t, "client", "get", "http://127.0.0.1:9100/").Body }
	stage.Eventually(t, limit, "the container's own server answers", func() bool { return strings.Contains(at(), `"mine"`) })
	s.Docker(t, "rm", "-f", "mine")
	stage.Eventually(t, limit, "the host's server answers again", func() bool { return at() == "host" })
	s.Docker(t, "run", "-d", "--name", "mine", testimage.Name, "sleep", "1h") // for Serve's cleanup
}

// Containers with a network of their own have their own loopback.
func checkBridge(t *testing.T, s *stage.Stage) {
	hostWord(t, s, "127.0.0.1:9100", "host")
	client(t, s)
	within(t, s, "client", "get", "http://127.0.0.1:9100/")
	link := s.Status(t).Link
	s.Docker(t, "run", "-d", "--name", "bridged", "--privileged", testimage.Name, "sleep", "1h")
	t.Cleanup(func() { s.Docker(t, "rm", "-f", "bridged") })
	gateway := strings.TrimSpace(s.Docker(t, "network", "inspect", "-f", "{{(index .IPAM.Config 0).Gateway}}", "bridge"))
	for _, addr := range []string{"127.0.0.1", gateway, link.Machine().V4.String(), link.Gateway().V4.String()} {
		if got := s.Exec(t, "bridged", "dial", "tcp", addr+":9100", "-timeout", "2s"); got.Outcome == testimage.Connected {
			t.Errorf("a container on a bridge reaches the host's loopback at %s: %+v", addr, got)
		}
	}
	serve(t, s, "own", "web", "-addr", "127.0.0.1:8080")
	for _, addr := range []string{"127.0.0.1", gateway, link.Machine().V4.String()} {
		if got := s.Exec(t, "bridged", "dial", "tcp", addr+":8080", "-timeout", "2s"); got.Outcome == testimage.Connected {
			t.Errorf("a container on a bridge reaches the machine's loopback at %s: %+v", addr, got)
		}
	}
}

func checkTaken(t *testing.T, s *stage.Stage) {
	taken := hostWord(t, s, "0.0.0.0:8080", "host")
	serve(t, s, "web", "web", "-addr", "0.0.0.0:8080", "-name", "web")
	stage.Eventually(t, limit, "ports shows the conflict", func() bool {
		list := ports(t, s)
		return len(list) == 2 && list[0].HostNetwork && strings.Contains(list[0].Error, "address already in use") && list[1].Error != ""
	})
	if problems := strings.Join(s.Status(t).Problems, "\n"); !strings.Contains(problems, "0.0.0.0:8080") {
		t.Errorf("status does not show the conflict: %s", problems)
	}
	if got := s.Exec(t, "web", "get", "http://127.0.0.1:8080/"); !strings.Contains(got.Body, `"web"`) {
		t.Errorf("the container is disturbed: %+v", got)
	}
	time.Sleep(3 * time.Second) // it is tried again meanwhile
	text, err := os.ReadFile(filepath.Join(s.StateDir, "default", "log", "daemon.log"))
	if err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(string(text), "port=0.0.0.0:8080"); n != 1 {
		t.Errorf("the log tells the conflict %d times", n)
	}
	taken.Close()
	stage.Eventually(t, limit, "the port is on the host when it is free", func() bool {
		v, err := visitor(t, s.Lab.Host, "127.0.0.1:8080")
		return err == nil && v.Name == "web"
	})
}

func checkPublishWarning(t *testing.T, s *stage.Stage) {
	out, code := s.TryDocker(t, "run", "--rm", "--network", "host", "-p", "8085:80", testimage.Name, "true")
	if code != 0 || !strings.Contains(out, "Published ports are discarded when using host network mode") {
		t.Errorf("docker run -p with the host network: exit code %d: %s", code, out)
	}
}

// What the engine and Portolan have in the machine stays there.
func checkOnlyContainers(t *testing.T, s *stage.Stage) {
	client(t, s)
	s.Serve(t, "published", []string{"-p", "8085:80"}, "web", "-name", "published")
	serve(t, s, "web", "web", "-addr", ":8080")
	onHost(t, s, "tcp 0.0.0.0:8080", "tcp [::]:8080", "tcp 0.0.0.0:8085", "tcp [::]:8085")
	time.Sleep(5 * promised)
	onHost(t, s, "tcp 0.0.0.0:8080", "tcp [::]:8080", "tcp 0.0.0.0:8085", "tcp [::]:8085")
	for _, p := range ports(t, s) {
		if p.HostNetwork != (p.Host.Port() == 8080) {
			t.Errorf("%+v", p)
		}
	}
	if v, err := visitor(t, s.Lab.Host, "127.0.0.1:8085"); err != nil || v.Name != "published" {
		t.Errorf("the published port: %+v, %v", v, err)
	}
}

func checkBinding(t *testing.T, s *stage.Stage) {
	serve(t, s, "web", "web", "-addr", ":8080", "-name", "web")
	fromLAN := func() bool {
		v, err := visitor(t, s.Lab.Neighbour, lab.HostV4+":8080")
		return err == nil && v.Name == "web"
	}
	stage.Eventually(t, limit, "the LAN reaches it", fromLAN)
	s.Portolan(t, "settings", "set", "portBindingBehavior", "default-local-port-binding")
	t.Cleanup(func() { s.Portolan(t, "settings", "unset", "portBindingBehavior") })
	stage.Eventually(t, limit, "the LAN reaches it no longer", func() bool { return !fromLAN() })
	onHost(t, s, "tcp 0.0.0.0:8080", "tcp [::]:8080")
	if v, err := visitor(t, s.Lab.Host, "127.0.0.1:8080"); err != nil || v.Name != "web" {
		t.Errorf("on loopback: %+v, %v", v, err)
	}
	s.Portolan(t, "settings", "unset", "portBindingBehavior")
	stage.Eventually(t, limit, "the LAN reaches it again", fromLAN)
}

func checkOff(t *testing.T, s *stage.Stage) {
	hostWord(t, s, "127.0.0.1:9100", "host")
	client(t, s)
	within(t, s, "client", "get", "http://127.0.0.1:9100/")
	serve(t, s, "web", "web", "-addr", ":8080")
	onHost(t, s, "tcp 0.0.0.0:8080", "tcp [::]:8080")
	s.Portolan(t, "settings", "set", "hostNetworkingEnabled", "false")
	t.Cleanup(func() { s.TryPortolan(t, "settings", "unset", "hostNetworkingEnabled") })
	onHost(t, s)
	stage.Eventually(t, limit, "the host's service is refused", func() bool {
		return s.Exec(t, "client", "dial", "tcp", "127.0.0.1:9100").Outcome == testimage.Refused
	})
	s.Portolan(t, "settings", "unset", "hostNetworkingEnabled")
	onHost(t, s, "tcp 0.0.0.0:8080", "tcp [::]:8080")
	within(t, s, "client", "get", "http://127.0.0.1:9100/")
}

func kill(t *testing.T, pid int) {
	t.Helper()
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
}

// checkSurvives: a port on the host and a service of the host are there again
// after one part of Portolan was killed.
func checkSurvives(t *testing.T, s *stage.Stage, end func()) {
	hostWord(t, s, "127.0.0.1:9100", "host")
	serve(t, s, "web", "web", "-addr", ":8080", "-name", "web")
	serve(t, s, "local", "web", "-addr", "127.0.0.1:8081", "-name", "local")
	answers := func() bool {
		for addr, name := range map[string]string{"127.0.0.1:8080": "web", "[::1]:8080": "web", "127.0.0.1:8081": "local"} {
			if v, err := visitor(t, s.Lab.Host, addr); err != nil || v.Name != name {
				return false
			}
		}
		return true
	}
	stage.Eventually(t, limit, "both answer", answers)
	within(t, s, "web", "get", "http://127.0.0.1:9100/")
	end()
	stage.Eventually(t, limit, "both answer again", answers)
	within(t, s, "web", "get", "http://127.0.0.1:9100/")
	serve(t, s, "later", "web", "-addr", ":8082")
	listening(t, s, 8082, true)
}

func checkDaemonKilled(t *testing.T, s *stage.Stage) {
	checkSurvives(t, s, func() {
		kill(t, s.Status(t).Daemon.PID)
		s.Portolan(t, "up")
	})
}

func checkAgentKilled(t *testing.T, s *stage.Stage) {
	checkSurvives(t, s, func() { kill(t, s.MachineProcess(t, "portolan-agent serve")) })
}

func checkEngineKilled(t *testing.T, s *stage.Stage) {
	checkSurvives(t, s, func() {
		before := s.Status(t).Engine.Restarts
		kill(t, s.MachineProcess(t, "dockerd"))
		stage.Eventually(t, limit, "dockerd answers again", func() bool {
			engine := s.Status(t).Engine
			return engine.Restarts > before && engine.Ready
		})
	})
}
