package e2e

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/portolan-net/portolan/internal/api"
	"github.com/portolan-net/portolan/internal/lab"
	"github.com/portolan-net/portolan/internal/stage"
	"github.com/portolan-net/portolan/internal/testimage"
)

// wellAgain is five times the 3 s within which everything works when the host
// is well again.
const wellAgain = 15 * time.Second

// lostAfter is five times the 2 s after which connections end whose address has
// gone with its interface.
const lostAfter = 10 * time.Second

// stopped is ten seconds for every day; docs/reliability.md tells of minutes.
var stopped = flag.Duration("stopped", 10*time.Second, "how long TestHostChanges stops the daemon")

// otherV4 is an address that the host gets in place of its own.
const otherV4 = "192.0.2.11"

// works waits until containers reach out by name, seen as the host's address,
// and a published port answers the neighbour there.
func works(t *testing.T, s *stage.Stage, host string) {
	t.Helper()
	start := time.Now()
	var last string
	defer func() {
		if t.Failed() {
			t.Log(last)
		}
	}()
	stage.Eventually(t, wellAgain, "the container reaches out", func() bool {
		last, _ = s.TryDocker(t, "exec", "web", "/bin/toolbox", "get", "http://web.internet.test/ip", "-timeout", "2s")
		return strings.Contains(last, host+`\n`) || strings.Contains(last, lab.HostV6)
	})
	stage.Eventually(t, wellAgain-min(time.Since(start), wellAgain), "the port answers", func() bool {
		conn, err := s.Lab.Neighbour.Dial(t.Context(), "tcp", hostPort(host, 8000))
		if err != nil {
			last = err.Error()
			return false
		}
		defer conn.Close()
		_ = conn.SetDeadline(time.Now().Add(time.Second))
		fmt.Fprintf(conn, "GET / HTTP/1.0\r\n\r\n")
		answer := make([]byte, 12)
		n, err := conn.Read(answer)
		last = fmt.Sprint(string(answer[:n]), err)
		return string(answer[:n]) == "HTTP/1.0 200"
	})
	t.Logf("well %v later", time.Since(start).Round(time.Millisecond))
}

// cutOff waits until the container no longer reaches out.
func cutOff(t *testing.T, s *stage.Stage) {
	t.Helper()
	got := s.Exec(t, "web", "get", "http://web.internet.test/ip", "-timeout", "2s")
	if got.Outcome == testimage.OK {
		t.Errorf("without a network the container reaches out: %+v", got)
	}
}

// What the host goes through, containers go through as well, and no longer. Of a
// thousand open flows those go on that the host's own would.
func TestHostChanges(t *testing.T) {
	s := stage.New(t)
	set := func(t *testing.T, lines ...string) {
		t.Helper()
		s.Lab.Host.Run(t, "sh", "-ec", strings.Join(lines, "\n"))
	}
	addresses := []string{
		"ip addr replace " + lab.HostV4 + "/24 dev lan0", "ip -6 addr replace " + lab.HostV6 + "/64 dev lan0 nodad",
	}
	routes := []string{
		"ip route replace default via " + lab.GatewayV4, "ip -6 route replace default via " + lab.GatewayV6,
	}
	resolver := func(t *testing.T, text string) {
		t.Helper()
		if err := s.Lab.SetResolvConf(text); err != nil {
			t.Fatal(err)
		}
	}
	var f *stage.Flows
	allGo := func(t *testing.T) {
		t.Helper()
		works(t, s, lab.HostV4)
		stage.AnswerWithin(t, s, wellAgain)
		f.AllGo(t)
	}
	const nameservers = "nameserver " + lab.DNSV4 + "\n"
	resolver(t, nameservers)

	t.Run("up without a network", func(t *testing.T) {
		set(t, "ip addr flush dev lan0", "ip link set lan0 down")
		resolver(t, "")
		s.Portolan(t, "up")
		s.LoadImage(t)
		s.Docker(t, "run", "-d", "--name", "web", "--restart", "always", "-p", "8000:80", testimage.Name, "web")
		stage.Eventually(t, deadline, "the port answers on the host", func() bool {
			_, err := stage.Fetch(t, s.Lab.Host, "127.0.0.1:8000", "/")
			return err == nil
		})
		cutOff(t, s)
		resolver(t, nameservers)
		set(t, append(append([]string{"ip link set lan0 up"}, addresses...), routes...)...)
		works(t, s, lab.HostV4)
	})
	stage.ServePorts(t, s)
	stage.AnswerWithin(t, s, deadline)
	f = stage.OpenFlows(t, s)
	t.Run("daemon stopped", func(t *testing.T) {
		daemonStopped(t, s)
		allGo(t)
	})
	t.Run("cable pulled", func(t *testing.T) {
		if err := s.Lab.Link("host").Down(); err != nil {
			t.Fatal(err)
		}
		cutOff(t, s)
		if err := s.Lab.Link("host").Up(); err != nil {
			t.Fatal(err)
		}
		allGo(t)
	})
	t.Run("another address", func(t *testing.T) {
		set(t, append([]string{"ip addr flush dev lan0 scope global"}, "ip addr add "+otherV4+"/24 dev lan0", routes[0])...)
		works(t, s, otherV4)
		time.Sleep(3 * time.Second) // more than what a tunnel's address may be away
		set(t, append(append([]string{"ip addr flush dev lan0 scope global"}, addresses...), routes...)...)
		allGo(t) // the interface was there: its connections wait
	})
	t.Run("interface replaced", func(t *testing.T) {
		link := s.Lab.Link("host")
		if err := errors.Join(link.Remove(), link.Replace()); err != nil {
			t.Fatal(err)
		}
		allGo(t)
	})
	t.Run("default route and resolver gone and back", func(t *testing.T) {
		set(t, "ip route del default", "ip -6 route del default")
		resolver(t, "")
		cutOff(t, s)
		got := s.Exec(t, "web", "dial", "tcp", hostPort(lab.WebV4, 80))
		if got.Outcome != testimage.NetUnreachable {
			t.Errorf("without a route: %+v, want what the host sees", got)
		}
		set(t, routes...)
		resolver(t, nameservers)
		allGo(t)
	})
	t.Run("interface gone, and another one later", func(t *testing.T) {
		link, removed := s.Lab.Link("host"), time.Now()
		if err := link.Remove(); err != nil {
			t.Fatal(err)
		}
		f.AllEnd(t, removed, lostAfter)
		if err := link.Replace(); err != nil {
			t.Fatal(err)
		}
		works(t, s, lab.HostV4)
		stage.AnswerWithin(t, s, wellAgain)
		f.NoneGoes(t)
	})
	t.Run("reboot", func(t *testing.T) {
		f := stage.OpenFlows(t, s)
		was, killed := s.Status(t), time.Now()
		for _, pid := range []int{keeper(t, s), was.Daemon.PID, was.Helper.PID, was.Machine.PID} {
			kill(t, pid)
		}
		f.AllEndOutside(t, killed, deadline)
		if err := os.RemoveAll(s.RunDir); err != nil {
			t.Fatal(err)
		}
		s.Portolan(t, "up")
		works(t, s, lab.HostV4)
		stage.AnswerWithin(t, s, wellAgain)
	})
	t.Run("another version", func(t *testing.T) { anotherVersion(t, s) })
}

// daemonStopped stops the daemon for a while. What is asked of it meanwhile waits:
// a client of a published port, a container that dials out, one that the engine
// starts again with its port, and docker.
func daemonStopped(t *testing.T, s *stage.Stage) {
	t.Helper()
	const soon = 3 * time.Second
	sh := func(name, script string, flags ...string) {
		args := append([]string{"run", "-d", "--name", name, "--entrypoint", "sh"}, flags...)
		s.Docker(t, append(args, testimage.Name, "-c", script)...)
	}
	was := s.Status(t)
	sh("dials", fmt.Sprintf("sleep %d; exec /bin/toolbox get http://web.internet.test/ip -timeout 60s", int((*stopped-soon).Seconds())))
	sh("again", fmt.Sprintf("if mkdir /was; then sleep %d; exit 1; fi; exec /bin/toolbox echo-tcp", int(soon.Seconds())), "--restart", "always", "-p", "7005:7")
	t.Cleanup(func() { s.Docker(t, "rm", "-f", "dials", "again", "asked") })
	stop(t, was.Daemon.PID)
	client := connect(t, s.Lab.Neighbour, hostPort(lab.HostV4, stage.TCPPorts[0]))
	asked := s.Command(t.Context(), "docker", "run", "-d", "--name", "asked", "-p", "7006:7", testimage.Name, "echo-tcp")
	if err := asked.Start(); err != nil {
		t.Fatal(err)
	}
	time.Sleep(*stopped) // it is what the test is about
	if err := syscall.Kill(was.Daemon.PID, syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	if err := stage.Exchange(client, "meanwhile", true, wellAgain); err != nil {
		t.Errorf("a client that came meanwhile: %v", err)
	}
	if err := asked.Wait(); err != nil {
		t.Errorf("docker run, typed meanwhile: %v", err)
	}
	for name, port := range map[string]uint16{"again": 7005, "asked": 7006} {
		stage.Eventually(t, wellAgain, fmt.Sprintf("the port of %q answers", name), func() bool {
			conn, err := s.Lab.Neighbour.Dial(t.Context(), "tcp", hostPort(lab.HostV4, port))
			return err == nil && stage.Exchange(conn, stage.Sign, true, time.Second) == nil
		})
	}
	if code := s.Docker(t, "wait", "dials"); code != "0" {
		t.Errorf("a container that dialled meanwhile: exit code %s: %s", code, s.Docker(t, "logs", "dials"))
	}
	if now := s.Status(t); now.Daemon.PID != was.Daemon.PID || now.Helper.PID != was.Helper.PID || now.State != api.Running {
		t.Errorf("status was %+v and is %+v", was, now)
	}
}

// anotherVersion lets a program of another version take over, and its own again.
func anotherVersion(t *testing.T, s *stage.Stage) {
	t.Helper()
	const version = "v9.9.9-other"
	dir := t.TempDir()
	other := filepath.Join(dir, "portolan")
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	// As `make build` does it, so that all is compiled and only has to be linked.
	build := exec.CommandContext(ctx, "go", "build", "-buildvcs=false", "-trimpath", "-ldflags", "-s -w -X main.version="+version, "-o", other, "../../cmd/portolan")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build another version: %v\n%s", err, out)
	}
	files, err := filepath.Glob(filepath.Join(filepath.Dir(s.Bin.Portolan), "*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range files { // the agent, the engine and what else is beside it
		if filepath.Base(path) != "portolan" {
			if err := os.Symlink(path, filepath.Join(dir, filepath.Base(path))); err != nil {
				t.Fatal(err)
			}
		}
	}
	running := func() string {
		return s.Docker(t, "inspect", "-f", "{{.State.Pid}} {{.State.StartedAt}}", "web")
	}
	was, container := s.Status(t), running()
	f := stage.OpenFlows(t, s)
	for _, program := range []string{other, s.Bin.Portolan} {
		before := s.Status(t)
		out, code := tryWith(t, s, nil, program, "up")
		if code != 0 || !strings.Contains(out, "containers go on") {
			t.Fatalf("up of %s: exit code %d\n%s", program, code, out)
		}
		if program == other {
			taken := time.Now()
			f.AllEndOutside(t, taken, deadline)
			f.AllEnd(t, taken, deadline)
		}
		works(t, s, lab.HostV4)
		stage.AnswerWithin(t, s, wellAgain)
		now := s.Status(t)
		if now.Daemon.PID == before.Daemon.PID || now.Daemon.Version == before.Daemon.Version ||
			now.Machine.PID != was.Machine.PID || now.Helper.PID != was.Helper.PID {
			t.Errorf("before %+v, after up of the other version %+v", before, now)
		}
		if program == other && now.Daemon.Version != version {
			t.Errorf("version %q runs, want %q", now.Daemon.Version, version)
		}
		if now := running(); now != container {
			t.Errorf("the container was %s and is %s", container, now)
		}
		if runs(before.Daemon.PID) {
			t.Errorf("the old daemon %d still runs", before.Daemon.PID)
		}
	}
}
