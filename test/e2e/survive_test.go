package e2e

import (
	"fmt"
	"net/netip"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/portolan-net/portolan/internal/api"
	"github.com/portolan-net/portolan/internal/lab"
	"github.com/portolan-net/portolan/internal/stage"
	"github.com/portolan-net/portolan/internal/testimage"
)

// deadline is five times the second within which the daemon is back.
const deadline = 5 * time.Second

// The daemon is killed while containers run: another one takes the machine over
// by itself, published ports answer again, open flows end, containers stay.
func TestDaemonKilled(t *testing.T) {
	s := stage.Up(t)
	s.Serve(t, "web", []string{"-p", "8000:80"}, "web", "-addr", ":80")
	s.Serve(t, "echo", []string{"-p", "7007:7"}, "echo-tcp", "-addr", ":7")
	before := s.Status(t)
	started := s.Docker(t, "inspect", "-f", "{{.State.StartedAt}} {{.State.Pid}}", "web")

	inbound, err := s.Lab.Host.Dial(t.Context(), "tcp", "127.0.0.1:7007")
	if err != nil {
		t.Fatal(err)
	}
	defer inbound.Close()
	outbound, err := s.Lab.Internet.Listen("tcp", netip.MustParseAddrPort(lab.EmptyV4+":9000").String())
	if err != nil {
		t.Fatal(err)
	}
	defer outbound.Close()
	s.Docker(t, "run", "-d", "--name", "idle", testimage.Name, "stream-recv", lab.EmptyV4+":9000")
	far, err := outbound.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer far.Close()

	if err := syscall.Kill(before.Daemon.PID, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	killed := time.Now()
	for name, conn := range map[string]interface {
		SetReadDeadline(time.Time) error
		Read([]byte) (int, error)
	}{"inbound": inbound, "outbound": far} {
		_ = conn.SetReadDeadline(killed.Add(deadline))
		if _, err := conn.Read(make([]byte, 1)); err == nil || strings.Contains(err.Error(), "timeout") {
			t.Errorf("the %s flow did not end: %v", name, err)
		}
	}
	stage.Eventually(t, deadline, "the published port answers again", func() bool {
		conn, err := s.Lab.Host.Dial(t.Context(), "tcp", "127.0.0.1:8000")
		if err != nil {
			return false
		}
		defer conn.Close()
		_ = conn.SetDeadline(time.Now().Add(time.Second))
		fmt.Fprintf(conn, "GET / HTTP/1.0\r\n\r\n")
		answer := make([]byte, 12)
		n, _ := conn.Read(answer)
		return string(answer[:n]) == "HTTP/1.0 200"
	})
	t.Logf("the port answered %v after the kill", time.Since(killed))
	stage.Eventually(t, deadline, "status is right", func() bool { return s.Status(t).State == api.Running })
	after := s.Status(t)
	if after.Daemon.PID == before.Daemon.PID || after.Helper.PID != before.Helper.PID || after.Machine.PID != before.Machine.PID {
		t.Errorf("processes before %+v, after %+v: want a new daemon and the same machine", before, after)
	}
	if now := s.Docker(t, "inspect", "-f", "{{.State.StartedAt}} {{.State.Pid}}", "web"); now != started {
		t.Errorf("the container was %s and is %s", started, now)
	}
	if got := s.Exec(t, "web", "get", "http://"+lab.WebV4+"/ip"); got.Outcome != testimage.OK {
		t.Errorf("outbound after the kill: %+v", got)
	}
	s.Docker(t, "rm", "-f", "idle")
}

// The agent, dockerd and containerd are killed in turn: each comes back, the
// container stays, its port answers.
func TestMachineProcessesKilled(t *testing.T) {
	s := stage.Up(t)
	s.Serve(t, "web", []string{"-p", "8000:80"}, "web", "-addr", ":80")
	started := s.Docker(t, "inspect", "-f", "{{.State.StartedAt}}", "web")
	for _, program := range []string{"portolan-agent serve", "dockerd", "containerd --config"} {
		t.Run(program, func(t *testing.T) {
			pid := s.MachineProcess(t, program)
			if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
				t.Fatal(err)
			}
			for range 20 { // while it is away and while it comes back
				got := s.HostToolbox(t, "get", "http://127.0.0.1:8000/")
				if got.Outcome != testimage.OK {
					t.Errorf("the published port: %+v", got)
				}
			}
			stage.Eventually(t, 30*time.Second, "the engine works", func() bool {
				_, code := s.TryDocker(t, "run", "--rm", "-p", "8001:80", testimage.Name, "true")
				return code == 0 && s.Status(t).State == api.Running
			})
			if again := s.MachineProcess(t, program); again == pid {
				t.Errorf("%s is still process %d", program, pid)
			}
			if now := s.Docker(t, "inspect", "-f", "{{.State.StartedAt}}", "web"); now != started {
				t.Errorf("the container started at %s, now %s", started, now)
			}
		})
	}
}
