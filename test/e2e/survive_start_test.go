package e2e

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/portolan-net/portolan/internal/api"
	"github.com/portolan-net/portolan/internal/stage"
)

// upEnds is five times what an `up` that can't succeed may take to clean up.
const upEnds = 25 * time.Second

// The keeper is killed while `up` waits for its daemon: `up` fails and leaves
// neither daemon nor machine, but for a machine that was there before.
func TestKeeperKilledDuringUp(t *testing.T) {
	s := stage.New(t)
	before := remember(t, s)
	run := filepath.Join(s.RunDir, "default")
	here := func(name string) bool {
		_, err := os.Stat(filepath.Join(run, name))
		return err == nil
	}
	for moment, reached := range map[string]func() bool{
		"before its machine": func() bool { return true },
		"in its machine":     func() bool { return here("machine.pids") },
	} {
		t.Run(moment, func(t *testing.T) {
			out := upWithoutKeeper(t, s, reached)
			if !strings.Contains(out, "signal: killed") {
				t.Errorf("up says\n%s", out)
			}
			before.check(t)
		})
	}
	t.Run("while it takes over", func(t *testing.T) {
		s.Portolan(t, "up")
		s.LoadImage(t)
		stage.ServePorts(t, s)
		stage.AnswerWithin(t, s, deadline)
		was, running := s.Status(t), containers(t, s)
		kill(t, keeper(t, s))
		kill(t, was.Daemon.PID)
		out := upWithoutKeeper(t, s, func() bool { return true })
		if !strings.Contains(out, "containers go on") {
			t.Errorf("up says\n%s", out)
		}
		s.Portolan(t, "up")
		stage.AnswerWithin(t, s, deadline)
		if now := s.Status(t); now.Machine.PID != was.Machine.PID || now.State != api.Running {
			t.Errorf("status was %+v and is %+v, want another daemon only", was, now)
		}
		if now := containers(t, s); now != running {
			t.Errorf("containers were\n%s\nand are\n%s", running, now)
		}
		s.Portolan(t, "down")
		before.check(t)
	})
}

// upWithoutKeeper runs `up`, kills its keeper as soon as there is one and the
// moment is reached, and returns what the `up` that failed said.
func upWithoutKeeper(t *testing.T, s *stage.Stage, reached func() bool) string {
	t.Helper()
	cmd := s.Command(t.Context(), s.Bin.Portolan, "up")
	var said strings.Builder
	cmd.Stdout, cmd.Stderr = &said, &said
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	for found := 0; found == 0; time.Sleep(time.Millisecond) {
		select {
		case err := <-ended:
			t.Fatalf("up ended before its keeper was killed: %v\n%s", err, said.String())
		default:
		}
		text, _ := os.ReadFile(filepath.Join(s.RunDir, "default", "lock")) // none yet
		pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
		if err != nil || !isKeeper(pid) || !reached() {
			continue
		}
		found = pid
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
	}
	select {
	case err := <-ended:
		if err == nil {
			t.Errorf("up succeeds without its keeper:\n%s", said.String())
		}
	case <-time.After(upEnds):
		t.Errorf("up has not ended after %v", upEnds)
	}
	return said.String()
}

// isKeeper says whether the process is a keeper that has started its daemon.
func isKeeper(pid int) bool {
	dir := filepath.Join("/proc", strconv.Itoa(pid))
	args, err := os.ReadFile(filepath.Join(dir, "cmdline"))
	if err != nil || !strings.Contains(string(args), "\x00--keep\x00") {
		return false
	}
	children, _ := filepath.Glob(filepath.Join(dir, "task/*/children")) // the pattern is right
	for _, path := range children {
		if text, err := os.ReadFile(path); err == nil && len(text) > 0 {
			return true
		}
	}
	return false
}

// Two processes of Portolan die at one moment. The machine is built anew where
// it can't go on, and nothing of the old one stays.
func TestTwoKilledAtOnce(t *testing.T) {
	s := stage.New(t)
	before := remember(t, s)
	s.Portolan(t, "up")
	s.LoadImage(t)
	stage.ServePorts(t, s)
	stage.AnswerWithin(t, s, deadline)
	deputy := func() int { return childOf(t, s.Status(t).Daemon.PID, "deputy") }
	for _, pair := range []struct {
		name    string
		victims func() []int
	}{
		{"deputy and helper", func() []int { return []int{deputy(), s.Status(t).Helper.PID} }},
		{"PID 1 and helper", func() []int { return []int{s.Status(t).Machine.PID, s.Status(t).Helper.PID} }},
		{"PID 1, helper and deputy", func() []int { return []int{s.Status(t).Machine.PID, s.Status(t).Helper.PID, deputy()} }},
	} {
		t.Run(pair.name, func(t *testing.T) {
			was := s.Status(t)
			victims := pair.victims()
			stop(t, was.Daemon.PID) // or it would act between the two
			for _, pid := range victims {
				kill(t, pid)
			}
			if err := syscall.Kill(was.Daemon.PID, syscall.SIGCONT); err != nil {
				t.Fatal(err)
			}
			comesBack(t, s, was)
			before.checkNetwork(t)
		})
	}
	t.Run("deputy alone", func(t *testing.T) {
		was := s.Status(t)
		kill(t, deputy())
		stage.AnswerWithin(t, s, deadline)
		if now := s.Status(t); now.Machine.PID != was.Machine.PID || now.Daemon.PID != was.Daemon.PID {
			t.Errorf("processes were %+v and are %+v", was, now)
		}
	})
	s.Portolan(t, "down")
	before.check(t)
}

// childOf returns the child of a process that runs that command of portolan.
func childOf(t *testing.T, pid int, command string) int {
	t.Helper()
	files, _ := filepath.Glob(filepath.Join("/proc", strconv.Itoa(pid), "task/*/children")) // the pattern is right
	for _, path := range files {
		children, _ := os.ReadFile(path)
		for child := range strings.FieldsSeq(string(children)) {
			args, _ := os.ReadFile(filepath.Join("/proc", child, "cmdline"))
			if strings.HasSuffix(strings.TrimRight(string(args), "\x00"), "\x00"+command) {
				number, _ := strconv.Atoi(child)
				return number
			}
		}
	}
	t.Fatalf("process %d has no child %q", pid, command)
	return 0
}
