package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
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
		if got := s.Docker(t, "info", "-f", "{{.MemoryLimit}} {{.CPUCfsQuota}} {{.CPUSet}} {{.PidsLimit}}"); got != "true true true true" {
			t.Errorf("containers can be limited in memory, processor time, processors, processes: %s", got)
		}
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
		group := memoryGroupOf(t, was.Machine.PID)
		const spare = 256 << 20 // an eighth of it has room for the programs' pages
		group.limit(t, strconv.Itoa(group.unreclaimable(t)+spare))
		t.Cleanup(func() { group.limit(t, group.none) })
		// Held until it is stopped, and more than nine tenths of all.
		s.Docker(t, append([]string{"run", "-d"}, sh("holder", fmt.Sprintf("head -c %d /dev/zero >/dev/shm/held; sleep 1h", spare/8*7), "--shm-size", "512m")[1:]...)...)
		stage.Eventually(t, wellAgain, "status tells of the memory", func() bool {
			// One that is asked too early to be answered in time is asked again.
			out, _ := s.TryPortolan(t, "status", "--json")
			return strings.Contains(out, `"degraded"`) && strings.Contains(out, "MB of memory that its control group "+group.dir)
		})
		if out, code := s.TryDocker(t, sh("greedy", glutton)...); code == 0 {
			t.Errorf("the greedy container ends well: %s", out)
		}
		f.AllGo(t)
		checkFiles(t, s)
		group.limit(t, group.none)
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

// memoryGroup is the control group that counts the memory of a process, of
// either version.
type memoryGroup struct {
	dir             string
	usedFile        string
	limitFile, none string   // and what is written there for no limit
	cached          []string // what memory.stat counts of the page cache
}

func memoryGroupOf(t *testing.T, pid int) memoryGroup {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
	if err != nil {
		t.Fatal(err)
	}
	unified := ""
	for line := range strings.Lines(string(text)) {
		line = strings.TrimSpace(line)
		if _, path, found := strings.Cut(line, ":memory:"); found {
			return memoryGroup{
				filepath.Join("/sys/fs/cgroup/memory", path), "memory.usage_in_bytes",
				"memory.limit_in_bytes", "-1", []string{"total_active_file", "total_inactive_file"},
			}
		}
		if path, found := strings.CutPrefix(line, "0::"); found {
			unified = path
		}
	}
	// PID 1 is in a leaf of the machine's group.
	return memoryGroup{
		filepath.Join("/sys/fs/cgroup", filepath.Dir(unified)), "memory.current",
		"memory.max", "max", []string{"active_file", "inactive_file"},
	}
}

func (g memoryGroup) read(t *testing.T, file string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(g.dir, file))
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(text))
}

func (g memoryGroup) limit(t *testing.T, bytes string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(g.dir, g.limitFile), []byte(bytes), 0); err != nil {
		t.Fatal(err)
	}
}

// unreclaimable is what the group uses, less the page cache.
func (g memoryGroup) unreclaimable(t *testing.T) int {
	t.Helper()
	used, err := strconv.Atoi(g.read(t, g.usedFile))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(g.read(t, "memory.stat")) {
		if fields := strings.Fields(line); slices.Contains(g.cached, fields[0]) {
			n, err := strconv.Atoi(fields[1])
			if err != nil {
				t.Fatal(err)
			}
			used -= n
		}
	}
	return used
}
