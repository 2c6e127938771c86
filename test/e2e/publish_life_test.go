package e2e

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/portolan-net/portolan/internal/lab"
	"github.com/portolan-net/portolan/internal/stage"
	"github.com/portolan-net/portolan/internal/testimage"
)

// checkTaken starts containers whose port something on the host has already.
func checkTaken(t *testing.T, s *stage.Stage) {
	t.Run("TCP", func(t *testing.T) {
		taken, err := s.Lab.Host.Listen("tcp", lab.HostV4+":8080")
		if err != nil {
			t.Fatal(err)
		}
		fails(t, s, "0.0.0.0:8080", "-p", "8081:80", "-p", "8080:80")
		taken.Close()
		s.Serve(t, "web", []string{"-p", "8081:80", "-p", "8080:80"}, "web", "-name", "web")
		answers(t, s.Lab.Neighbour, "web", hostPort(lab.HostV4, 8080), hostPort(lab.HostV4, 8081))
	})
	t.Run("IPv6 only", func(t *testing.T) {
		taken, err := s.Lab.Host.Listen("tcp6", "[::]:8080")
		if err != nil {
			t.Fatal(err)
		}
		fails(t, s, "[::]:8080", "-p", "8080:80")
		taken.Close()
		s.Serve(t, "web", []string{"-p", "8080:80"}, "web", "-name", "web")
		answers(t, s.Lab.Neighbour, "web", hostPort(lab.HostV6, 8080))
	})
	t.Run("UDP", func(t *testing.T) {
		taken, err := s.Lab.Host.ListenPacket("udp", "127.0.0.1:7000")
		if err != nil {
			t.Fatal(err)
		}
		fails(t, s, "127.0.0.1:7000", "-p", "127.0.0.1:7000:7/udp")
		taken.Close()
		s.Serve(t, "echo", []string{"-p", "127.0.0.1:7000:7/udp"}, "echo-udp")
		if got, err := stage.Ask(t, s.Lab.Host, "127.0.0.1:7000", "x"); err != nil || got != "x" {
			t.Errorf("the echo is %q (%v)", got, err)
		}
	})
	t.Run("an address that the host does not have", func(t *testing.T) {
		out, code := s.TryDocker(t, "run", "--name", "failing", "-p", "192.0.2.99:8080:80", testimage.Name, "true")
		s.Docker(t, "rm", "-f", "failing")
		if code != 125 || !strings.Contains(out, "192.0.2.99:8080") || !strings.Contains(out, "cannot assign requested address") {
			t.Errorf("exit code %d: %s", code, out)
		}
	})
}

// fails checks that docker run says which address is taken, and that this process
// holds it, and leaves no listener.
func fails(t *testing.T, s *stage.Stage, addr string, flags ...string) {
	t.Helper()
	const dockerFailed = 125 // the engine's refusal, as docker run reports it
	out, code := s.TryDocker(t, append(append([]string{"run", "--name", "failing"}, flags...), testimage.Name, "true")...)
	// The engine keeps the container, as without Portolan.
	defer s.Docker(t, "rm", "-f", "failing")
	proto := "tcp"
	if strings.HasSuffix(flags[len(flags)-1], "/udp") {
		proto = "udp"
	}
	want := fmt.Sprintf("listen on %s/%s: address already in use: held by e2e.test (pid %d)", addr, proto, os.Getpid())
	if code != dockerFailed || !strings.Contains(out, want) {
		t.Errorf("docker run %q: exit code %d, want %d and %q: %s", flags, code, dockerFailed, want, out)
	}
	if got := published(t, s); len(got) != 0 {
		t.Errorf("the daemon still listens on %q", got)
	}
	if got := s.Status(t).Ports; len(got) != 0 {
		t.Errorf("status still lists %v", got)
	}
}

// checkFreed takes ports for the host's own use as soon as docker rm returns.
func checkFreed(t *testing.T, s *stage.Stage) {
	t.Cleanup(func() { s.TryDocker(t, "rm", "-f", "echo") }) // when the test ends early
	for range 5 {
		s.Docker(t, "run", "-d", "--name", "echo", "-p", "8080:7", "-p", "127.0.0.1:8081:7", "-p", "7000:7/udp", testimage.Name, "echo-tcp")
		stage.Eventually(t, serveLimit, "the container listens", func() bool {
			return strings.Contains(s.Docker(t, "logs", "echo"), `"listening"`)
		})
		conn := connect(t, s.Lab.Neighbour, hostPort(lab.HostV4, 8080))
		echoes(t, conn)
		s.Docker(t, "rm", "-f", "echo")
		for _, addr := range []string{"0.0.0.0:8080", "[::]:8080", "127.0.0.1:8081"} {
			if l, err := s.Lab.Host.Listen("tcp", addr); err != nil {
				t.Error(err)
			} else {
				l.Close()
			}
		}
		if l, err := s.Lab.Host.ListenPacket("udp", "[::]:7000"); err != nil {
			t.Error(err)
		} else {
			l.Close()
		}
		if _, err := conn.Read(make([]byte, 1)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("a connection to the removed container: %v, want its end", err)
		}
	}
}

func checkRestarts(t *testing.T, s *stage.Stage) {
	s.Serve(t, "web", []string{"-p", "8080:80", "-p", "127.0.0.1:8081:80", "-p", "7000:7/udp"}, "web", "-name", "web")
	before := published(t, s)
	if len(before) != 2+1+2 {
		t.Fatalf("the daemon listens on %q", before)
	}
	for range 20 {
		s.Docker(t, "restart", "-t", "0", "web")
		answersSoon(t, s.Lab.Neighbour, "web", hostPort(lab.HostV4, 8080))
	}
	answers(t, s.Lab.Neighbour, "web", hostPort(lab.HostV6, 8080))
	answers(t, s.Lab.Host, "web", "127.0.0.1:8081")
	if after := published(t, s); !slices.Equal(before, after) {
		t.Errorf("the daemon listens on %q, before on %q", after, before)
	}
	if got := s.Status(t).Ports; len(got) != len(before) {
		t.Errorf("status lists %v", got)
	}
}

// checkEngineKilled kills dockerd while a neighbour uses published ports.
func checkEngineKilled(t *testing.T, s *stage.Stage) {
	s.Serve(t, "web", []string{"-p", "8080:80"}, "web", "-name", "web")
	s.Serve(t, "datagrams", []string{"-p", "7000:7/udp"}, "echo-udp")
	s.Serve(t, "echo", []string{"-p", "7000:7"}, "echo-tcp")
	inMachine := inContainer(t, s, "inside", "--network", "host")
	conn := connect(t, s.Lab.Neighbour, hostPort(lab.HostV4, 7000))
	flow, err := s.Lab.Neighbour.Dial(t.Context(), "udp", hostPort(lab.HostV4, 7000))
	if err != nil {
		t.Fatal(err)
	}
	defer flow.Close()
	echoes(t, flow)
	before := published(t, s)
	restarts := s.Status(t).Engine.Restarts

	if err := syscall.Kill(dockerd(t, s), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	// Until the engine is back, and then once more. The engine that starts makes its firewall rules anew, and for some 50 ms
	// they refuse new flows: TCP asks again by itself, and a UDP flow that stands loses nothing.
	for back, deadline := false, time.Now().Add(5*restartPromise); !back; {
		status := s.Status(t)
		back = status.Engine.Restarts > restarts && status.Engine.Ready
		answers(t, s.Lab.Neighbour, "web", hostPort(lab.HostV4, 8080), hostPort(lab.HostV6, 8080))
		echoes(t, flow)
		if t.Failed() || time.Now().After(deadline) {
			t.Fatalf("the engine: %+v", status.Engine)
		}
	}
	echoes(t, flow)
	echoes(t, conn) // from before
	if got, err := stage.Ask(t, s.Lab.Neighbour, hostPort(lab.HostV4, 7000), "new"); err != nil || got != "new" {
		t.Errorf("a new UDP flow: %q (%v)", got, err)
	}
	if got := inMachine.run(t, "get http://localhost:8080/"); !strings.Contains(got.Body, `"name":"web"`) {
		t.Errorf("in the machine: %+v", got)
	}
	if after := published(t, s); !slices.Equal(before, after) {
		t.Errorf("the daemon listens on %q, before on %q", after, before)
	}
	s.Docker(t, "restart", "-t", "0", "web")
	answersSoon(t, s.Lab.Neighbour, "web", hostPort(lab.HostV4, 8080))
}

// echoes checks that what is sent on a connection comes back.
func echoes(t *testing.T, conn net.Conn) {
	t.Helper()
	if err := conn.SetDeadline(time.Now().Add(exchangeLimit)); err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(conn, make([]byte, 1)); err != nil {
		t.Fatalf("%s echo: %v", conn.RemoteAddr().Network(), err)
	}
}

// restartPromise is how soon a dockerd that died serves again.
const restartPromise = 5 * time.Second

// dockerd is the engine's process: the one of that name in the machine's PID
// namespace.
func dockerd(t *testing.T, s *stage.Stage) int {
	t.Helper()
	namespace, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/pid", s.Status(t).Machine.PID))
	if err != nil {
		t.Fatal(err)
	}
	names, err := filepath.Glob("/proc/[0-9]*/comm")
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range names {
		name, err := os.ReadFile(path)
		if err != nil || string(name) != "dockerd\n" {
			continue // of another name, or gone
		}
		process := filepath.Dir(path)
		if where, err := os.Readlink(filepath.Join(process, "ns/pid")); err != nil || where != namespace {
			continue // another engine's
		}
		pid, err := strconv.Atoi(filepath.Base(process))
		if err != nil {
			t.Fatal(err)
		}
		return pid
	}
	t.Fatal("no dockerd in the machine")
	return 0
}
