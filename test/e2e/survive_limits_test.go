package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/portolan-net/portolan/internal/api"
	"github.com/portolan-net/portolan/internal/lab"
	"github.com/portolan-net/portolan/internal/stage"
	"github.com/portolan-net/portolan/internal/testimage"
)

// What the computer is short of is said in status, spoils no file, and is over
// when there is enough again. A thousand open flows do not notice.
func TestShortage(t *testing.T) {
	s := stage.New(t)
	if err := os.MkdirAll(s.StateDir, 0o700); err != nil {
		t.Fatal(err)
	}
	s.Lab.Host.Run(t, "mount", "-t", "tmpfs", "-o", "size=400m", "tmpfs", s.StateDir)
	s.Portolan(t, "up")
	s.LoadImage(t)
	stage.ServePorts(t, s)
	stage.AnswerWithin(t, s, deadline)
	said := func(t *testing.T, want ...string) {
		t.Helper()
		var last api.Status
		stage.Eventually(t, deadline, fmt.Sprintf("status says %q", want), func() bool {
			last = s.Status(t)
			text := strings.Join(last.Problems, "\n")
			for _, word := range want {
				if !strings.Contains(text, word) {
					return false
				}
			}
			return last.State == api.Degraded
		})
	}
	well := func(t *testing.T) {
		t.Helper()
		stage.Eventually(t, wellAgain, "all is well", func() bool {
			status := s.Status(t)
			_, code := s.TryDocker(t, "run", "--rm", "-p", "8001:80", testimage.Name, "true")
			return status.State == api.Running && code == 0
		})
		stage.AnswerWithin(t, s, wellAgain)
		checkFiles(t, s)
	}

	t.Run("disk full", func(t *testing.T) {
		f := stage.OpenFlows(t, s)
		fill := filepath.Join(s.StateDir, "fill")
		out := s.Lab.Host.Run(t, "sh", "-c", "head -c 500m /dev/zero 2>&1 >"+fill+"; true")
		if !strings.Contains(out, "No space left") {
			t.Fatalf("filling the disk says %q", out)
		}
		said(t, "is full", "free some space")
		f.AllGo(t)
		if _, code := s.TryDocker(t, "run", "--name", "toomuch", "-p", "8001:80", testimage.Name, "true"); code == 0 {
			t.Error("with a full disk a container runs")
		}
		killed := time.Now()
		kill(t, s.Status(t).Daemon.PID) // the next one finds no space either
		f.AllEndOutside(t, killed, deadline)
		stage.PortsAnswer(t, s, wellAgain)
		said(t, "is full")
		s.Lab.Host.Run(t, "rm", fill)
		s.TryDocker(t, "rm", "-f", "toomuch")
		well(t)
	})
	t.Run("no descriptors", func(t *testing.T) {
		daemon := strconv.Itoa(s.Status(t).Daemon.PID)
		files, err := os.ReadDir("/proc/" + daemon + "/fd")
		if err != nil {
			t.Fatal(err)
		}
		const more, clients = 40, 200
		was := strings.Fields(s.Lab.Host.Run(t, "prlimit", "--pid", daemon, "--nofile", "--raw", "--noheadings", "-o", "SOFT"))[0]
		limit := func(soft string) { s.Lab.Host.Run(t, "prlimit", "--pid", daemon, "--nofile="+soft+":") }
		limit(strconv.Itoa(len(files) + more))
		var conns []net.Conn
		defer func() {
			for _, conn := range conns {
				_ = conn.Close()
			}
		}()
		for range clients {
			conn, err := s.Lab.Neighbour.Dial(t.Context(), "tcp", hostPort(lab.HostV4, stage.TCPPorts[0]))
			if errors.Is(err, syscall.ECONNRESET) && len(conns) > 0 {
				continue // beyond what the daemon has descriptors for
			}
			if err != nil {
				t.Fatal(err)
			}
			conns = append(conns, conn)
		}
		said(t, "descriptors are in use", "prlimit --pid "+daemon)
		if err := stage.Exchange(conns[0], stage.Sign, false, deadline); err != nil {
			t.Errorf("a flow that stands: %v", err)
		}
		for _, conn := range conns {
			_ = conn.Close()
		}
		well(t) // still with few, but nobody takes them
		limit(was)
		f := stage.OpenFlows(t, s)
		limit(strconv.Itoa(len(files) + more)) // less than these have
		said(t, "descriptors are in use", "prlimit --pid "+daemon)
		f.AllGo(t)
		limit(was)
		well(t)
		f.AllGo(t)
		if now := strconv.Itoa(s.Status(t).Daemon.PID); now != daemon {
			t.Errorf("daemon %s runs, want still %s", now, daemon)
		}
	})
	f := stage.OpenFlows(t, s)
	t.Run("read-only", func(t *testing.T) {
		s.Lab.Host.Run(t, "sh", "-ec", "mount --bind "+s.StateDir+" "+s.StateDir+"; mount -o remount,bind,ro "+s.StateDir)
		said(t, "is read-only", "make it writable")
		stage.PortsAnswer(t, s, deadline)
		f.AllGo(t)
		s.Lab.Host.Run(t, "umount", s.StateDir)
		well(t)
		f.AllGo(t)
	})
	s.Portolan(t, "down")
	s.Portolan(t, "up")
	stage.AnswerWithin(t, s, wellAgain)
	s.Portolan(t, "down")
	s.Lab.Host.Run(t, "umount", s.StateDir)
}

// checkFiles fails for a file of Portolan's that is no whole JSON, and for one
// that was begun and left.
func checkFiles(t *testing.T, s *stage.Stage) {
	t.Helper()
	run := filepath.Join(s.RunDir, "default")
	for _, path := range []string{filepath.Join(run, "machine.pids"), filepath.Join(run, "machine", "machine.json")} {
		text, err := os.ReadFile(path)
		if err != nil || !json.Valid(text) {
			t.Errorf("%s is damaged: %q (%v)", path, text, err)
		}
	}
	left := s.Lab.Host.Run(t, "find", filepath.Join(s.StateDir, "default"), run, "-maxdepth", "1", "(", "-name", "*.new", "-o", "-name", ".room-*", ")")
	if left != "" {
		t.Errorf("begun and left: %s", left)
	}
}
