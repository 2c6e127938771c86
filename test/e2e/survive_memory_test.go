package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/portolan-net/portolan/internal/api"
	"github.com/portolan-net/portolan/internal/stage"
	"github.com/portolan-net/portolan/internal/testimage"
)

// A container takes all memory: its own, then the machine's. The first is the
// engine's business; the second is said in status, and is over with its cause. A thousand
// open flows do not notice.
func TestMemoryShortage(t *testing.T) {
	s := stage.Up(t)
	stage.ServePorts(t, s)
	stage.AnswerWithin(t, s, deadline)
	f := stage.OpenFlows(t, s)
	sh := func(name, script string, flags ...string) []string {
		args := append([]string{"run", "--name", name}, flags...)
		return append(args, "--entrypoint", "sh", testimage.Name, "-c", script)
	}
	const glutton = "tail /dev/zero"

	t.Run("of a container", func(t *testing.T) {
		was := s.Status(t)
		if out, code := s.TryDocker(t, sh("greedy", glutton, "-m", "32m", "--memory-swap", "32m")...); code != 137 {
			t.Errorf("the greedy container: exit code %d: %s", code, out)
		}
		if got := s.Docker(t, "inspect", "-f", "{{.State.OOMKilled}}", "greedy"); got != "true" {
			t.Errorf("the engine says OOMKilled %s", got)
		}
		s.Docker(t, "rm", "greedy")
		now := s.Status(t)
		if now.State != api.Running || now.Daemon.PID != was.Daemon.PID || now.Machine.PID != was.Machine.PID {
			t.Errorf("status was %+v and is %+v", was, now)
		}
		stage.PortsAnswer(t, s, deadline)
		f.AllGo(t)
	})
	t.Run("of the machine", func(t *testing.T) {
		was := s.Status(t)
		group := memoryGroup(t, was.Machine.PID)
		limit := func(bytes int) {
			if err := os.WriteFile(filepath.Join(group, "memory.limit_in_bytes"), []byte(strconv.Itoa(bytes)), 0); err != nil {
				t.Fatal(err)
			}
		}
		const spare = 96 << 20
		limit(unreclaimable(t, group) + spare)
		t.Cleanup(func() { limit(-1) })
		// Held until it is stopped, and more than nine tenths of all.
		s.Docker(t, append([]string{"run", "-d"}, sh("holder", fmt.Sprintf("head -c %d /dev/zero >/dev/shm/held; sleep 1h", spare/8*7), "--shm-size", "512m")[1:]...)...)
		stage.Eventually(t, wellAgain, "status tells of the memory", func() bool {
			now := s.Status(t)
			return now.State == api.Degraded && strings.Contains(strings.Join(now.Problems, "\n"), "MB of memory that its control group "+group)
		})
		if out, code := s.TryDocker(t, sh("greedy", glutton)...); code == 0 {
			t.Errorf("the greedy container ends well: %s", out)
		}
		f.AllGo(t)
		checkFiles(t, s)
		limit(-1)
		s.TryDocker(t, "rm", "-f", "greedy", "holder")
		stage.Eventually(t, 2*wellAgain, "all is well", func() bool {
			_, code := s.TryDocker(t, "run", "--rm", "-p", "8001:80", testimage.Name, "true")
			return code == 0 && s.Status(t).State == api.Running
		})
		stage.AnswerWithin(t, s, wellAgain)
		f.AllGo(t)
		if now := s.Status(t); now.Daemon.PID != was.Daemon.PID {
			t.Errorf("daemon %d runs, was %d", now.Daemon.PID, was.Daemon.PID)
		}
		checkFiles(t, s)
	})
	s.Portolan(t, "down")
	s.Portolan(t, "up")
	stage.AnswerWithin(t, s, wellAgain)
}

// memoryGroup is the control group that counts the memory of a process.
func memoryGroup(t *testing.T, pid int) string {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if _, path, found := strings.Cut(strings.TrimSpace(line), ":memory:"); found {
			return filepath.Join("/sys/fs/cgroup/memory", path)
		}
	}
	t.Fatalf("process %d has no control group for memory, of version 1", pid)
	return ""
}

// unreclaimable is what a group uses, less the page cache.
func unreclaimable(t *testing.T, group string) int {
	t.Helper()
	used := 0
	for file, names := range map[string][]string{"memory.usage_in_bytes": nil, "memory.stat": {"total_active_file", "total_inactive_file"}} {
		text, err := os.ReadFile(filepath.Join(group, file))
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(text)) {
			fields := strings.Fields(line)
			n, _ := strconv.Atoi(fields[len(fields)-1])
			switch {
			case names == nil:
				used += n
			case fields[0] == names[0] || fields[0] == names[1]:
				used -= n
			}
		}
	}
	return used
}
