package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/portolan-net/portolan/internal/api"
	"github.com/portolan-net/portolan/internal/lab"
	"github.com/portolan-net/portolan/internal/stage"
)

// Each process of Portolan is killed in turn, with a thousand flows open: what
// must go on goes on, what must end ends on both sides, and nothing stale stays.
func TestKilledUnderLoad(t *testing.T) {
	s := stage.New(t)
	before := remember(t, s)
	s.Portolan(t, "up")
	s.LoadImage(t)
	stage.ServePorts(t, s)
	stage.AnswerWithin(t, s, deadline)
	inside := look(t, s)
	running := containers(t, s)
	unharmed := func(t *testing.T) {
		t.Helper()
		stage.AnswerWithin(t, s, deadline)
		stage.Eventually(t, deadline, "status is right", func() bool { return s.Status(t).State == api.Running })
		if now := containers(t, s); now != running {
			t.Errorf("containers were\n%s\nand are\n%s", running, now)
		}
		before.checkNetwork(t)
	}

	// What comes after a failure would kill the wrong processes.
	step := func(name string, do func(*testing.T)) {
		if !t.Run(name, do) {
			t.FailNow()
		}
	}
	step("helper", func(t *testing.T) {
		f := stage.OpenFlows(t, s)
		was := s.Status(t)
		kill(t, was.Helper.PID)
		f.AllGo(t)
		stage.Eventually(t, deadline, "another helper runs", func() bool {
			now := s.Status(t)
			return now.Helper.PID != was.Helper.PID && runs(now.Helper.PID)
		})
		unharmed(t)
		f.AllGo(t)
		if now := s.Status(t); now.Daemon.PID != was.Daemon.PID || now.Machine.PID != was.Machine.PID {
			t.Errorf("processes were %+v and are %+v, want another helper only", was, now)
		}
	})
	step("agent, dockerd and containerd", func(t *testing.T) {
		f := stage.OpenFlows(t, s)
		init := s.Status(t).Machine.PID
		held := sizeOf(t, init).descriptors
		for _, program := range []string{"portolan-agent serve", "dockerd", "containerd --config"} {
			kill(t, s.MachineProcess(t, program))
			f.AllGo(t)
			s.MachineProcess(t, program)
			stage.Eventually(t, 30*time.Second, "the engine works", func() bool {
				_, code := s.TryDocker(t, "exec", "tcp0", "/bin/toolbox", "true")
				return code == 0 && s.Status(t).State == api.Running
			})
			unharmed(t)
		}
		f.AllGo(t)
		if now := sizeOf(t, init).descriptors; now > held {
			t.Errorf("PID 1 held %d descriptors and holds %d", held, now)
		}
	})
	daemonEnds := func(signal syscall.Signal) func(*testing.T) {
		return func(t *testing.T) {
			f := stage.OpenFlows(t, s)
			was := s.Status(t)
			ended := time.Now()
			if err := syscall.Kill(was.Daemon.PID, signal); err != nil {
				t.Fatal(err)
			}
			f.AllEndOutside(t, ended, deadline)
			stage.AnswerWithin(t, s, deadline-min(time.Since(ended), deadline))
			f.AllEnd(t, ended, deadline)
			unharmed(t)
			if now := s.Status(t); now.Daemon.PID == was.Daemon.PID || now.Helper.PID != was.Helper.PID {
				t.Errorf("processes were %+v and are %+v, want another daemon only", was, now)
			}
		}
	}
	step("daemon", daemonEnds(syscall.SIGKILL)) // the next attaches to the second helper
	step("daemon, asked to end", daemonEnds(syscall.SIGTERM))
	step("nothing stale inside", func(t *testing.T) { inside.check(t, s) })
	step("daemon ten times", func(t *testing.T) { killTenTimes(t, s) })
	step("nothing stale inside then", func(t *testing.T) { inside.check(t, s) })
	step("PID 1", func(t *testing.T) {
		f := stage.OpenFlows(t, s)
		was := s.Status(t)
		kill(t, was.Machine.PID)
		comesBack(t, s, was)
		f.AllEndOutside(t, time.Now(), deadline)
		before.checkNetwork(t)
	})
	step("helper and daemon", func(t *testing.T) {
		was := s.Status(t)
		stop(t, was.Daemon.PID) // or it would start another helper
		kill(t, was.Helper.PID)
		kill(t, was.Daemon.PID)
		comesBack(t, s, was)
		before.checkNetwork(t)
	})
	step("down", func(t *testing.T) {
		s.Portolan(t, "down")
		before.check(t)
	})
}

// stop suspends a process.
func stop(t *testing.T, pid int) {
	t.Helper()
	if pid <= 1 {
		t.Fatalf("there is no process %d to stop", pid)
	}
	if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
}

// comesBack waits until another machine runs with the containers and ports.
func comesBack(t *testing.T, s *stage.Stage, was api.Status) {
	t.Helper()
	stage.Eventually(t, 60*time.Second, "another machine runs", func() bool {
		out, code := s.TryPortolan(t, "status")
		return code == 0 && strings.Contains(out, "state          running") && s.Status(t).Machine.PID != was.Machine.PID
	})
	stage.AnswerWithin(t, s, 30*time.Second)
	for _, process := range []api.Process{was.Machine, was.Helper} {
		if runs(process.PID) {
			t.Errorf("process %d of the old machine still runs", process.PID)
		}
	}
}

// containers lists what runs, and since when.
func containers(t *testing.T, s *stage.Stage) string {
	t.Helper()
	ids := strings.Fields(s.Docker(t, "ps", "-q", "--no-trunc", "--filter", "name=^(tcp|udp)"))
	lines := strings.Split(s.Docker(t, append([]string{"inspect", "-f", "{{.Name}} {{.State.Pid}} {{.State.StartedAt}}"}, ids...)...), "\n")
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}

// size is what the processes that outlive a daemon hold, and the daemon itself.
type size struct{ descriptors, threads, kilobytes int }

func sizeOf(t *testing.T, pid int) size {
	t.Helper()
	files, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	now := size{descriptors: len(files)}
	for line := range strings.Lines(string(text)) {
		name, value, _ := strings.Cut(line, ":")
		number, _ := strconv.Atoi(strings.TrimSuffix(strings.TrimSpace(value), " kB"))
		switch name {
		case "Threads":
			now.threads = number
		case "VmRSS":
			now.kilobytes = number
		}
	}
	return now
}

// killTenTimes kills the daemon ten times. What its successors hold after that,
// and the processes that stay, is what was held after the first time.
func killTenTimes(t *testing.T, s *stage.Stage) {
	t.Helper()
	measure := func() map[string]size {
		status := s.Status(t)
		return map[string]size{
			"daemon": sizeOf(t, status.Daemon.PID),
			"keeper": sizeOf(t, keeper(t, s)),
			"helper": sizeOf(t, status.Helper.PID),
			"PID 1":  sizeOf(t, status.Machine.PID),
			"agent":  sizeOf(t, s.MachineProcess(t, "portolan-agent serve")),
		}
	}
	var first map[string]size
	for i := range 10 {
		was := s.Status(t).Daemon.PID
		// One that dies sooner is started again more slowly each time.
		stage.Eventually(t, deadline, "the daemon has lived for a second", func() bool { return time.Since(s.Status(t).Daemon.Since) > time.Second })
		kill(t, was)
		stage.Eventually(t, deadline, "another daemon runs", func() bool {
			now := s.Status(t)
			return now.State == api.Running && now.Daemon.PID != was
		})
		stage.AnswerWithin(t, s, deadline)
		if i == 0 {
			first = measure()
		}
	}
	// Flows of the last check may take a moment to end.
	const spare, memory = 4, 16 << 10
	var last map[string]size
	for end := time.Now().Add(30 * time.Second); ; time.Sleep(200 * time.Millisecond) {
		last = measure()
		grown := false
		for name, was := range first {
			now := last[name]
			grown = grown || now.descriptors > was.descriptors+spare || now.kilobytes > was.kilobytes+memory
		}
		if !grown {
			break
		}
		if time.Now().After(end) {
			t.Errorf("after the first kill %+v, after the tenth %+v", first, last)
			break
		}
	}
	t.Logf("after the first kill %+v, after the tenth %+v", first, last)
}

// keeper is the process that the lock names.
func keeper(t *testing.T, s *stage.Stage) int {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(s.RunDir, "default", "lock"))
	if err != nil {
		t.Fatal(err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		t.Fatal(err)
	}
	return pid
}

// sight is what can become stale in the machine and in the router: rules,
// routes, addresses, listeners and mounts.
type sight map[string]string

func look(t *testing.T, s *stage.Stage) sight {
	t.Helper()
	status := s.Status(t)
	seen := sight{}
	for name, pid := range map[string]int{"machine": status.Machine.PID, "router": status.Helper.PID} {
		const list = `nft -s list ruleset | sed 's/counter packets.*bytes [0-9]*//; /elements = {/,/}/d'; ip rule; ip -6 rule; ip -o link; ip -o addr; ip route show table all; ip -6 route show table all; ss -lntuH | awk '{print "listens", $1, $5}' | sort`
		// The kernel gives link-local addresses when it likes.
		out, err := exec.CommandContext(t.Context(), "nsenter", "-t", strconv.Itoa(pid), "--net", "sh", "-c", list).CombinedOutput()
		if err != nil {
			t.Fatalf("look into the %s: %v\n%s", name, err, out)
		}
		lines := strings.Split(string(out), "\n")
		seen[name] = strings.Join(slices.DeleteFunc(lines, func(line string) bool { return strings.Contains(line, "fe80:") }), "\n")
	}
	mounts, err := os.ReadFile(fmt.Sprintf("/proc/%d/mountinfo", status.Machine.PID))
	if err != nil {
		t.Fatal(err)
	}
	var points []string
	for line := range strings.Lines(string(mounts)) {
		// Other places are the host's, and change with it.
		if point := strings.Fields(line)[4]; strings.Contains(point, "/docker") || strings.Contains(point, "containerd") || strings.HasPrefix(point, "/run/portolan/") {
			points = append(points, point)
		}
	}
	slices.Sort(points)
	seen["mounts"] = strings.Join(points, "\n")
	return seen
}

// check fails for what is not as it was, and for zombies of the machine.
func (was sight) check(t *testing.T, s *stage.Stage) {
	t.Helper()
	var differences []string
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(100 * time.Millisecond) {
		differences = nil
		for name, now := range look(t, s) {
			for _, line := range lab.Diff(was[name], now) {
				differences = append(differences, name+": "+line)
			}
		}
		differences = append(differences, zombies(t, s)...)
		if len(differences) == 0 || time.Now().After(end) {
			break
		}
	}
	for _, line := range differences {
		t.Errorf("changed: %s", line)
	}
}

// zombies lists processes of the machine that nobody reaped.
func zombies(t *testing.T, s *stage.Stage) []string {
	t.Helper()
	own, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/pid", s.Status(t).Machine.PID))
	if err != nil {
		t.Fatal(err)
	}
	var found []string
	dirs, _ := filepath.Glob("/proc/[0-9]*") // the pattern is right
	for _, dir := range dirs {
		stat, err := os.ReadFile(filepath.Join(dir, "stat"))
		ns, _ := os.Readlink(filepath.Join(dir, "ns/pid")) // ended meanwhile
		if _, after, _ := strings.Cut(string(stat), ") "); err == nil && ns == own && strings.HasPrefix(after, "Z") {
			found = append(found, "zombie: "+string(stat))
		}
	}
	return found
}
