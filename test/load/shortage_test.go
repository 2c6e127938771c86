package load

import (
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/portolan-net/portolan/internal/lab"
	"github.com/portolan-net/portolan/internal/stage"
	"github.com/portolan-net/portolan/internal/testimage"
)

const (
	// promptly is five times the second in which a refusal shall come.
	promptly = 5 * time.Second
	farPort  = ":9000"
)

// When descriptors or ports run out, new connections of containers are refused
// at once, those that stand go on, the log says it once, and it is over when
// there is enough again.
func TestShortage(t *testing.T) {
	s := stage.Up(t)
	s.Docker(t, "run", "-d", "--name", "client", testimage.Name, "sleep", "1h")
	t.Cleanup(func() { s.Docker(t, "rm", "-f", "client") })
	daemon := strconv.Itoa(s.Status(t).Daemon.PID)

	t.Run("descriptors", func(t *testing.T) {
		was := strings.Fields(s.Lab.Host.Run(t, "prlimit", "--pid", daemon, "--nofile", "--raw", "--noheadings", "-o", "SOFT"))[0]
		limit := func(soft string) { s.Lab.Host.Run(t, "prlimit", "--pid", daemon, "--nofile="+soft+":") }
		checkShortage(t, s, 10, func() { limit("500") }, func() { limit(was) })
	})
	t.Run("ports", func(t *testing.T) {
		const file, held = "/proc/sys/net/ipv4/ip_local_port_range", 10
		was := strings.TrimSpace(s.Lab.Host.Run(t, "cat", file))
		set := func(text string) { s.Lab.Host.Run(t, "sh", "-c", "echo "+text+" >"+file) }
		checkShortage(t, s, held, func() { set("30000 30019") }, func() { set("'" + was + "'") })
	})
}

// checkShortage holds some connections, makes something scarce, and takes what
// is left of it.
func checkShortage(t *testing.T, s *stage.Stage, held int, scarce, over func()) {
	t.Helper()
	listener, err := s.Lab.Internet.Listen("tcp", lab.EmptyV4+farPort)
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	standing := holdFlows(t, s, listener, held)
	defer standing.release(t, s)
	said := len(warnings(t, s))
	scarce()
	takers := accept(listener)
	s.Docker(t, "run", "-d", "--name", "taker", testimage.Name, "churn", "-once", "-workers", "300", lab.EmptyV4+farPort)
	refused := testimage.Result{}
	stage.Eventually(t, promptly, "connects are refused", func() bool {
		refused = s.Exec(t, "client", "dial", "tcp", lab.EmptyV4+farPort, "-timeout", "5s")
		return refused.Outcome != testimage.Connected && refused.Outcome != testimage.OK
	})
	if refused.Outcome == testimage.Timeout || refused.Duration() > promptly {
		t.Errorf("a connect ended as %+v, want a prompt refusal", refused)
	}
	t.Logf("a connect ended as %s after %s: %s", refused.Outcome, refused.Duration(), refused.Error)
	standing.exchange(t)
	if got := warnings(t, s)[said:]; len(got) != 1 {
		t.Errorf("the log has %d lines about it, want 1:\n%s", len(got), strings.Join(got, "\n"))
	}
	s.Docker(t, "rm", "-f", "taker")
	over()
	takers()
	stage.Eventually(t, promptly, "connects stand again", func() bool {
		return s.Exec(t, "client", "get", "http://"+lab.WebV4+"/ip").Outcome == testimage.OK
	})
	standing.exchange(t)
}

// accept takes connections until the returned function is called, which resets them.
func accept(listener net.Listener) (end func()) {
	done := make(chan struct{})
	var conns []net.Conn
	go func() {
		defer close(done)
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			conns = append(conns, conn)
		}
	}()
	return func() {
		_ = listener.Close()
		<-done
		for _, conn := range conns {
			_ = conn.Close()
		}
	}
}

// warnings are the lines of the daemon's log about what is scarce.
func warnings(t *testing.T, s *stage.Stage) []string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(s.StateDir, "default", "log", "daemon.log"))
	if err != nil {
		t.Fatal(err)
	}
	var found []string
	for line := range strings.Lines(string(text)) {
		if strings.Contains(line, "level=WARN") && (strings.Contains(line, "part=egress") || strings.Contains(line, "part=router")) {
			found = append(found, line)
		}
	}
	return found
}

// flows are connections of a container that stand, seen from the far side.
type flows []net.Conn

// holdFlows makes a container "holder" open count connections to listener, which
// echo.
func holdFlows(t *testing.T, s *stage.Stage, listener net.Listener, count int) (f flows) {
	t.Helper()
	s.Docker(t, "run", "-d", "--name", "holder", testimage.Name, "hold", lab.EmptyV4+farPort, "-count", fmt.Sprint(count))
	for range count {
		conn, err := listener.Accept()
		if err != nil {
			t.Fatal(err)
		}
		f = append(f, conn)
	}
	return f
}

func (f flows) exchange(t *testing.T) {
	t.Helper()
	for i, conn := range f {
		text := fmt.Sprintf("flow %d", i)
		_ = conn.SetDeadline(time.Now().Add(promptly))
		answer := make([]byte, len(text))
		if _, err := conn.Write([]byte(text)); err == nil {
			_, err = io.ReadFull(conn, answer)
			if err != nil || string(answer) != text {
				t.Fatalf("flow %d answers %q, %v", i, answer, err)
			}
		} else {
			t.Fatalf("flow %d: %v", i, err)
		}
	}
}

func (f flows) release(t *testing.T, s *stage.Stage) {
	t.Helper()
	for _, conn := range f {
		_ = conn.Close()
	}
	s.Docker(t, "rm", "-f", "holder")
}
