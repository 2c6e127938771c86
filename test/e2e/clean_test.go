package e2e

import (
	"context"
	"os"
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
	"github.com/portolan-net/portolan/internal/testimage"
)

// untouched is what must be as it was: everything that a machine could leave,
// the docker contexts, and the host's network configuration.
type untouched struct {
	s        *stage.Stage
	baseline *lab.Baseline
	contexts string
	network  string
}

func remember(t *testing.T, s *stage.Stage) untouched {
	t.Helper()
	// The roots of all profiles may stay, what is in them may not.
	if err := os.MkdirAll(s.RunDir, 0o700); err != nil {
		t.Fatal(err)
	}
	baseline, err := s.Lab.Baseline(s.RunDir)
	if err != nil {
		t.Fatal(err)
	}
	return untouched{s, baseline, contexts(t, s), network(t, s)}
}

// check fails for everything that is not as it was.
func (u untouched) check(t *testing.T) {
	t.Helper()
	u.baseline.Check(t)
	u.checkNetwork(t)
	if now := contexts(t, u.s); now != u.contexts {
		t.Errorf("docker contexts are %q, want %q", now, u.contexts)
	}
}

func (u untouched) checkNetwork(t *testing.T) {
	t.Helper()
	for _, line := range lab.Diff(u.network, network(t, u.s)) {
		t.Errorf("the host's network has changed: %s", line)
	}
}

// network is the host's whole network configuration.
func network(t *testing.T, s *stage.Stage) string {
	t.Helper()
	text, err := s.Lab.Host.Snapshot()
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// contexts are docker's, and its current one.
func contexts(t *testing.T, s *stage.Stage) string {
	t.Helper()
	list, listCode := tryWith(t, s, nil, "env", "-u", "DOCKER_HOST", "docker", "context", "ls", "-q")
	current, code := tryWith(t, s, nil, "env", "-u", "DOCKER_HOST", "docker", "context", "show")
	if listCode != 0 || code != 0 {
		t.Fatalf("list docker contexts: %s%s", list, current)
	}
	return list + "current: " + current
}

// tryWith runs a program on the host with variables over the stage's own, and
// returns both outputs together and the exit code.
func tryWith(t *testing.T, s *stage.Stage, env []string, args ...string) (string, int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cmd := s.Command(ctx, "env", append(slices.Clone(env), args...)...)
	out, err := cmd.CombinedOutput()
	if cmd.ProcessState == nil || ctx.Err() != nil {
		t.Fatalf("run %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return string(out), cmd.ProcessState.ExitCode()
}

// Whatever ran in a machine, `down` takes everything away, and the host's
// network is the same before, meanwhile and after.
func TestDownLeavesNothing(t *testing.T) {
	s := stage.New(t)
	before := remember(t, s)
	s.Portolan(t, "up")
	before.checkNetwork(t)
	s.Portolan(t, "down")
	before.check(t)

	s.Portolan(t, "up")
	s.LoadImage(t)
	s.Docker(t, "network", "create", "mine")
	s.Docker(t, "network", "create", "--internal", "inside")
	s.Docker(t, "volume", "create", "kept")
	s.Docker(t, "run", "-d", "--name", "web", "--network", "mine", "-v", "kept:/data", "-p", "8080:80", testimage.Name, "web")
	s.Docker(t, "run", "-d", "--name", "echo", "--restart", "always", "-p", "127.0.0.1:7007:7/udp", testimage.Name, "echo-udp")
	s.Docker(t, "run", "-d", "--name", "host", "--network", "host", testimage.Name, "sleep", "1h")
	s.Docker(t, "run", "-d", "--name", "inside", "--network", "inside", "-m", "64m", testimage.Name, "sleep", "1h")
	stage.Eventually(t, 10*time.Second, "the published port answers", func() bool {
		_, err := stage.Fetch(t, s.Lab.Host, "127.0.0.1:8080", "/")
		return err == nil
	})
	before.checkNetwork(t)
	s.Portolan(t, "down")
	before.check(t)

	t.Run("images, volumes and containers are there again", func(t *testing.T) {
		s.Portolan(t, "up", "--use-context")
		stage.Eventually(t, 10*time.Second, "the restart policy holds", func() bool {
			return s.Docker(t, "ps", "--format", "{{.Names}}") == "echo"
		})
		if got := s.Docker(t, "volume", "ls", "-q"); got != "kept" {
			t.Errorf("volumes are %q", got)
		}
		s.Docker(t, "start", "web")
		stage.Eventually(t, 10*time.Second, "the published port answers", func() bool {
			_, err := stage.Fetch(t, s.Lab.Host, "127.0.0.1:8080", "/")
			return err == nil
		})
		s.Portolan(t, "down", "--purge")
		before.check(t)
		if left, err := os.ReadDir(s.StateDir); err != nil || len(left) != 0 {
			t.Errorf("down --purge leaves %v, %v", left, err)
		}
	})
}

// fakeEngine makes an engine whose dockerd is a script, and returns its path.
func fakeEngine(t *testing.T, s *stage.Stage, version, script string) string {
	t.Helper()
	dir := t.TempDir()
	for _, name := range []string{"containerd", "containerd-shim-runc-v2", "runc"} {
		if err := os.Symlink(filepath.Join(s.Bin.Engine, name), filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	path := filepath.Join(dir, "dockerd")
	text := "#!/bin/sh\nif [ \"$1\" = --version ]; then echo 'Docker version " + version + ", build abc'; exit; fi\n" + script + "\n"
	if err := os.WriteFile(path, []byte(text), 0o755); err != nil {
		t.Fatal(err)
	}
	return path
}

// copyOf copies a program into a directory of its own.
func copyOf(t *testing.T, program string) string {
	t.Helper()
	text, err := os.ReadFile(program)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), filepath.Base(program))
	if err := os.WriteFile(path, text, 0o755); err != nil {
		t.Fatal(err)
	}
	return path
}

// brokenAgent is portolan with an agent whose shim is there for the host only: it
// leads into the runtime directory, which the machine does not see.
func brokenAgent(t *testing.T, s *stage.Stage) string {
	t.Helper()
	program := copyOf(t, s.Bin.Portolan)
	agent := filepath.Join(filepath.Dir(program), "portolan-agent")
	if err := os.Rename(copyOf(t, filepath.Join(filepath.Dir(s.Bin.Portolan), "portolan-agent")), agent); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(filepath.Join(s.RunDir, "default", "lock"), filepath.Join(filepath.Dir(program), "portolan-shim")); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(s.Bin.Engine, filepath.Join(filepath.Dir(program), "engine")); err != nil {
		t.Fatal(err)
	}
	return program
}

// A failed `up` says why and what to do, and leaves nothing.
func TestFailedUp(t *testing.T) {
	s := stage.New(t)
	before := remember(t, s)
	hanging := fakeEngine(t, s, "29.0.0", "exec sleep 600")
	exiting := fakeEngine(t, s, "29.0.0", "echo 'failed to start daemon: no luck today' >&2; exit 3")
	old := fakeEngine(t, s, "20.10.24", "exit 0")
	alone := copyOf(t, s.Bin.Portolan)
	for _, c := range []struct {
		name    string
		prepare string // shell, in a mount namespace of its own
		program string
		args    []string
		want    []string
	}{
		{"no TUN device", "mount -t tmpfs tmpfs /dev/net", "", nil, []string{"/dev/net/tun", "modprobe tun"}},
		{"dockerd exits", "", "", []string{"--engine", exiting}, []string{"exit status 3", "no luck today", "engine.log"}},
		{"dockerd hangs", "", "", []string{"--engine", hanging, "--timeout", "4s"}, []string{"not ready after 4s", "portolan logs"}},
		{"an old engine", "", "", []string{"--engine", old}, []string{"20.10.24", "too old", "--engine bundled"}},
		{"no such engine", "", "", []string{"--engine", "/nowhere/dockerd"}, []string{"/nowhere/dockerd", "no such file", "--engine wants"}},
		{"a full disk", "mkdir -p $PORTOLAN_STATE_DIR && mount -t tmpfs -o size=2m tmpfs $PORTOLAN_STATE_DIR && ! head -c 3m /dev/zero 2>/dev/null >$PORTOLAN_STATE_DIR/much",
			"", nil, []string{"no space left on device", "free some space", "PORTOLAN_STATE_DIR"}},
		{"a state directory that can't be written", "mkdir -p $PORTOLAN_STATE_DIR && mount -t tmpfs -o ro tmpfs $PORTOLAN_STATE_DIR", "", nil,
			[]string{"read-only file system", "PORTOLAN_STATE_DIR"}},
		{"a runtime directory that can't be written", "mount -t tmpfs -o ro tmpfs $PORTOLAN_RUNTIME_DIR", "", nil,
			[]string{"read-only file system", "PORTOLAN_RUNTIME_DIR"}},
		{"no agent", "", alone, nil, []string{"find portolan-agent", "make build"}},
		{"an agent that ends", "", brokenAgent(t, s), nil, []string{"start agent: it ends again and again", "find portolan-shim"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			if c.prepare == "" {
				c.prepare = ":"
			}
			if c.program == "" {
				c.program = s.Bin.Portolan
			}
			script := "set -e; " + c.prepare + `; exec "$@"`
			out, code := tryWith(t, s, nil, append([]string{"unshare", "--mount", "--propagation", "private", "sh", "-c", script, "sh", c.program, "up"}, c.args...)...)
			if code != 1 {
				t.Errorf("exit code %d, want 1", code)
			}
			for _, want := range c.want {
				if !strings.Contains(out, want) {
					t.Errorf("the message lacks %q:\n%s", want, out)
				}
			}
			before.check(t)
		})
	}
	for _, c := range []struct {
		name string
		end  func(t *testing.T, up *os.Process)
		want []string
	}{
		{"Ctrl-C", func(t *testing.T, up *os.Process) {
			t.Helper()
			if err := up.Signal(os.Interrupt); err != nil {
				t.Error(err)
			}
		}, []string{"interrupt"}},
		{"the daemon is killed", func(t *testing.T, _ *os.Process) {
			t.Helper()
			kill(t, s.Status(t).Daemon.PID)
		}, []string{"killed", "portolan logs"}},
		{"down meanwhile", func(t *testing.T, _ *os.Process) {
			t.Helper()
			if out, code := tryWith(t, s, nil, s.Bin.Portolan, "down"); code != 0 || !strings.Contains(out, "is stopped") {
				t.Errorf("down: exit code %d: %s", code, out)
			}
		}, []string{"stopped before the engine was ready"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			out, code := endedUp(t, s, hanging, c.end)
			if code != 1 {
				t.Errorf("exit code %d, want 1", code)
			}
			for _, want := range c.want {
				if !strings.Contains(out, want) {
					t.Errorf("the message lacks %q:\n%s", want, out)
				}
			}
			before.check(t)
		})
	}
	t.Run("a state directory in use", func(t *testing.T) {
		s.Portolan(t, "up")
		running := remember(t, s)
		out, code := tryWith(t, s, []string{"PORTOLAN_RUNTIME_DIR=" + filepath.Join(s.RunDir, "other")}, s.Bin.Portolan, "up")
		if code != 1 || !strings.Contains(out, "another machine uses it") || !strings.Contains(out, "set PORTOLAN_STATE_DIR") {
			t.Errorf("exit code %d: %s", code, out)
		}
		if err := os.Remove(filepath.Join(s.RunDir, "other")); err != nil { // an empty root may stay
			t.Error(err)
		}
		running.check(t)
		if state := s.Status(t).State; state != api.Running {
			t.Errorf("the first machine is %s", state)
		}
		s.Docker(t, "ps")
		s.Portolan(t, "down")
		before.check(t)
	})
	t.Run("the runtime directory removed", func(t *testing.T) { lostRunDir(t, s, before) })
}

// lostRunDir removes the runtime directory under a machine that runs.
func lostRunDir(t *testing.T, s *stage.Stage, before untouched) {
	t.Helper()
	s.Portolan(t, "up")
	helper := strconv.Itoa(s.Status(t).Helper.PID)
	if err := os.RemoveAll(filepath.Join(s.RunDir, "default")); err != nil {
		t.Fatal(err)
	}
	if status := s.Status(t); status.State != api.Degraded || strconv.Itoa(status.Helper.PID) != helper || len(status.Problems) == 0 {
		t.Errorf("status: %+v, want the helper %s and how to end it", status, helper)
	}
	for _, c := range []struct {
		env, args, want []string
	}{
		{nil, []string{"up"}, []string{"pid " + helper, "end it with: portolan --profile default down"}},
		{
			[]string{"PORTOLAN_RUNTIME_DIR=" + filepath.Join(s.RunDir, "other")},
			[]string{"down", "--purge"},
			[]string{"delete state", "pid " + helper, "PORTOLAN_RUNTIME_DIR=" + s.RunDir},
		},
	} {
		out, code := tryWith(t, s, c.env, append([]string{s.Bin.Portolan}, c.args...)...)
		for _, want := range c.want {
			if code != 1 || !strings.Contains(out, want) {
				t.Errorf("%s: exit code %d, want 1 and %q:\n%s", c.args[0], code, want, out)
			}
		}
	}
	_ = os.Remove(filepath.Join(s.RunDir, "other")) // an empty root may stay
	if out := s.Portolan(t, "down", "--purge"); !strings.Contains(out, "is stopped") || !strings.Contains(out, "deleted ") {
		t.Errorf("down --purge: %s", out)
	}
	before.check(t)
}

// endedUp starts `up` with an engine that hangs, calls end when the machine is
// there, and returns up's output and exit code.
func endedUp(t *testing.T, s *stage.Stage, engine string, end func(*testing.T, *os.Process)) (string, int) {
	t.Helper()
	out, err := os.Create(filepath.Join(t.TempDir(), "out"))
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	cmd := s.Command(t.Context(), s.Bin.Portolan, "up", "--engine", engine)
	cmd.Stdout, cmd.Stderr = out, out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	output := func() string {
		text, err := os.ReadFile(out.Name())
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	stage.Eventually(t, 20*time.Second, "the machine is there", func() bool { return strings.Contains(output(), "machine") })
	end(t, cmd.Process)
	_ = cmd.Wait() // its code counts
	return output(), cmd.ProcessState.ExitCode()
}

// killDaemon kills the daemon and whatever would start it again, and returns
// when both are gone.
func killDaemon(t *testing.T, s *stage.Stage) {
	t.Helper()
	daemon := s.Status(t).Daemon.PID
	text, err := os.ReadFile(filepath.Join(s.RunDir, "default", "lock"))
	if err != nil {
		t.Fatal(err)
	}
	holder, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		t.Fatal(err)
	}
	for _, pid := range []int{holder, daemon} {
		kill(t, pid)
	}
}

// kill ends a process with SIGKILL; one that is gone already is fine.
func kill(t *testing.T, pid int) {
	t.Helper()
	if pid <= 1 {
		t.Fatalf("there is no process %d to kill", pid)
	}
	_ = syscall.Kill(pid, syscall.SIGKILL)
	stage.Eventually(t, 10*time.Second, "process "+strconv.Itoa(pid)+" is gone", func() bool { return !runs(pid) })
}

// runs says whether the process is there and no zombie.
func runs(pid int) bool {
	stat, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "stat"))
	if err != nil {
		return false
	}
	_, after, _ := strings.Cut(string(stat), ") ")
	return !strings.HasPrefix(after, "Z") && !strings.HasPrefix(after, "X")
}

// A machine outlives its daemon: the next one takes it over with containers and
// ports, or `down` ends it. Damaged files are named, and cost nothing.
func TestTakeOver(t *testing.T) {
	s := stage.New(t)
	before := remember(t, s)
	s.Portolan(t, "up")
	s.LoadImage(t)
	s.Docker(t, "run", "-d", "--name", "web", "-p", "8080:80", testimage.Name, "web")
	started := func() string { return s.Docker(t, "inspect", "-f", "{{.Id}} {{.State.StartedAt}}", "web") }
	answers := func() bool {
		_, err := stage.Fetch(t, s.Lab.Host, "127.0.0.1:8080", "/")
		return err == nil
	}
	stage.Eventually(t, 10*time.Second, "the published port answers", answers)
	first := started()
	machine := s.Status(t).Machine.PID
	state := filepath.Join(s.RunDir, "default")

	takeOver := func(t *testing.T) {
		t.Helper()
		s.Portolan(t, "up")
		if now := s.Status(t).Machine.PID; now != machine {
			t.Errorf("the machine is %d, want the one that ran, %d", now, machine)
		}
		if now := started(); now != first {
			t.Errorf("the container is %s, want the one that ran, %s", now, first)
		}
		stage.Eventually(t, 10*time.Second, "the published port answers", answers)
		if got := s.Exec(t, "web", "get", "http://"+lab.WebV4+"/ip"); strings.TrimSpace(got.Body) != lab.HostV4 {
			t.Errorf("the container reaches out: %+v", got)
		}
		before.checkNetwork(t)
	}
	fails := func(t *testing.T, file string, want ...string) {
		t.Helper()
		out, code := s.TryPortolan(t, "up")
		for _, want := range append(want, file) {
			if code != 1 || !strings.Contains(out, want) {
				t.Errorf("up with a damaged %s: exit code %d, want 1 and %q:\n%s", file, code, want, out)
			}
		}
		if !runs(machine) {
			t.Fatal("the failed up took the machine down")
		}
	}
	t.Run("status tells", func(t *testing.T) {
		killDaemon(t, s)
		now := s.Status(t)
		if now.State != api.Degraded || now.Machine.PID != machine || len(now.Problems) != 1 || !strings.Contains(now.Problems[0], "portolan up") {
			t.Errorf("without a daemon, status says %+v", now)
		}
	})
	t.Run("up takes over", takeOver)
	t.Run("damaged machine.json", func(t *testing.T) {
		killDaemon(t, s)
		path := filepath.Join(state, "machine.json")
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		write(t, path, string(text[:len(text)/2]))
		fails(t, path, "damaged", "portolan down")
		write(t, path, string(text))
		takeOver(t)
	})
	t.Run("damaged machine.pids, mended", func(t *testing.T) {
		killDaemon(t, s)
		path := filepath.Join(state, "machine.pids")
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		write(t, path, "{")
		fails(t, path, "damaged", "portolan down")
		if now := s.Status(t); now.State != api.Degraded || len(now.Problems) != 1 || !strings.Contains(now.Problems[0], path) {
			t.Errorf("with a damaged record, status says %+v", now)
		}
		write(t, path, string(text))
		takeOver(t)
	})
	t.Run("damaged machine.pids, taken down", func(t *testing.T) {
		killDaemon(t, s)
		write(t, filepath.Join(state, "machine.pids"), "{")
		s.Portolan(t, "down")
		before.check(t)
	})
	t.Run("down without a daemon", func(t *testing.T) {
		s.Portolan(t, "up")
		s.Docker(t, "start", "web")
		stage.Eventually(t, 10*time.Second, "the published port answers", answers)
		killDaemon(t, s)
		s.Portolan(t, "down")
		before.check(t)
		if now := s.Status(t).State; now != api.Stopped {
			t.Errorf("after down, the state is %s", now)
		}
	})
	t.Run("the router helper is killed", func(t *testing.T) {
		s.Portolan(t, "up")
		helper := s.Status(t).Helper.PID
		kill(t, helper)
		// The daemon needs a moment to notice; until then it says that it runs.
		stage.Eventually(t, 30*time.Second, "up starts a new machine", func() bool {
			_, code := s.TryPortolan(t, "up")
			now := s.Status(t)
			return code == 0 && now.State == api.Running && now.Helper.PID != helper
		})
		s.Docker(t, "start", "web")
		stage.Eventually(t, 10*time.Second, "the published port answers", answers)
		s.Portolan(t, "down")
		before.check(t)
	})
}

// write replaces a file's text.
func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}
