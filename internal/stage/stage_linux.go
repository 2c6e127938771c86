// Package stage puts Portolan on the lab's host for end-to-end tests: the real
// programs, the real docker CLI, a real engine, and the test image loaded. It
// is for tests only.
package stage

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/portolan-net/portolan/internal/api"
	"github.com/portolan-net/portolan/internal/lab"
	"github.com/portolan-net/portolan/internal/testimage"
)

// Stage is one lab with Portolan on its host. State, sockets and docker's
// configuration are in the lab's directory, so two stages share nothing.
type Stage struct {
	Lab      *lab.Lab
	Internet *lab.Services
	Bin      lab.Binaries
	StateDir string // PORTOLAN_STATE_DIR
	RunDir   string // PORTOLAN_RUNTIME_DIR
	ConfDir  string // PORTOLAN_CONFIG_DIR
	Env      []string
	User     *User // whose programs run on the host; nil for root's
}

// commandTimeout bounds every command that a test waits for.
const commandTimeout = 3 * time.Minute

// New builds a lab with the standard servers and the programs, and starts
// nothing on the host. What a test leaves running is taken down.
func New(t testing.TB, opts ...lab.Option) *Stage {
	t.Helper()
	s := build(t, opts...)
	s.StateDir = filepath.Join(s.Lab.Dir, "state")
	s.RunDir = filepath.Join(s.Lab.Dir, "run")
	s.ConfDir = filepath.Join(s.Lab.Dir, "config")
	s.Env = []string{
		"PORTOLAN_STATE_DIR=" + s.StateDir,
		"PORTOLAN_RUNTIME_DIR=" + s.RunDir,
		"PORTOLAN_CONFIG_DIR=" + s.ConfDir,
		"DOCKER_CONFIG=" + filepath.Join(s.Lab.Dir, "docker"),
		"DOCKER_HOST=unix://" + filepath.Join(s.RunDir, "default", "docker.sock"),
		"PATH=" + s.Bin.Engine + ":" + filepath.Dir(s.Bin.Portolan) + ":" + os.Getenv("PATH"),
	}
	s.downAtEnd(t)
	return s
}

// build makes the lab with its servers, and the programs.
func build(t testing.TB, opts ...lab.Option) *Stage {
	t.Helper()
	s := &Stage{Bin: lab.BuildBinaries(t), Lab: lab.New(t, opts...)}
	engine := filepath.Join(filepath.Dir(s.Bin.Portolan), "engine")
	if err := os.Symlink(s.Bin.Engine, engine); err != nil && !errors.Is(err, os.ErrExist) {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(engine, "dockerd")); err != nil {
		t.Fatalf("find the engine: %v; type: make engine cli", err)
	}
	s.Internet = s.Lab.StartInternet(t)
	return s
}

// downAtEnd takes down what the test leaves running.
func (s *Stage) downAtEnd(t testing.TB) {
	t.Helper()
	t.Cleanup(func() {
		if t.Failed() {
			s.showLogs(t)
		}
		if out, code := s.TryPortolan(t, "down"); code != 0 {
			t.Errorf("portolan down: exit code %d: %s", code, out)
		}
	})
}

// Up is New, `portolan up` and the test image.
func Up(t testing.TB, opts ...lab.Option) *Stage {
	t.Helper()
	s := New(t, opts...)
	s.Portolan(t, "up")
	s.LoadImage(t)
	return s
}

// LoadImage puts the test image into the engine.
func (s *Stage) LoadImage(t testing.TB) {
	t.Helper()
	path := filepath.Join(s.Lab.Dir, "toolbox.tar")
	file, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(testimage.Write(t.Context(), file), file.Close()); err != nil {
		t.Fatal(err)
	}
	s.Docker(t, "load", "-q", "-i", path)
}

// Command prepares a program of the stage's user on the host, with the stage's
// environment.
func (s *Stage) Command(ctx context.Context, name string, args ...string) *exec.Cmd {
	// The program is found by the stage's PATH, on the host.
	words := append(append(append([]string{}, s.Env...), name), args...)
	cmd := s.Lab.Host.Command(ctx, "env", words...)
	if s.User != nil {
		cmd = s.User.ordinary(ctx, s.Lab.Host, words...)
	}
	cmd.WaitDelay = time.Second
	return cmd
}

// run returns both outputs and the exit code, -1 for a program that was killed.
func (s *Stage) run(t testing.TB, name string, args ...string) (out, errOut string, code int) {
	t.Helper()
	// A test's context has ended when its clean-up runs.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), commandTimeout)
	defer cancel()
	cmd := s.Command(ctx, name, args...)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatalf("run %s %s: %v", name, strings.Join(args, " "), err)
	}
	return stdout.String(), stderr.String(), cmd.ProcessState.ExitCode()
}

// Portolan runs portolan on the host and returns what it printed; a failure
// ends the test.
func (s *Stage) Portolan(t testing.TB, args ...string) string {
	t.Helper()
	return s.must(t, s.Bin.Portolan, args...)
}

// TryPortolan returns both outputs together and the exit code.
func (s *Stage) TryPortolan(t testing.TB, args ...string) (string, int) {
	t.Helper()
	out, errOut, code := s.run(t, s.Bin.Portolan, args...)
	return out + errOut, code
}

// Docker runs the docker CLI and returns its standard output, trimmed; a
// failure ends the test.
func (s *Stage) Docker(t testing.TB, args ...string) string {
	t.Helper()
	return s.must(t, "docker", args...)
}

// TryDocker returns both outputs together and the exit code.
func (s *Stage) TryDocker(t testing.TB, args ...string) (string, int) {
	t.Helper()
	out, errOut, code := s.run(t, "docker", args...)
	return out + errOut, code
}

func (s *Stage) must(t testing.TB, name string, args ...string) string {
	t.Helper()
	out, errOut, code := s.run(t, name, args...)
	if code != 0 {
		t.Fatalf("%s %s: exit code %d\n%s%s", filepath.Base(name), strings.Join(args, " "), code, out, errOut)
	}
	return strings.TrimSpace(out)
}

// Toolbox runs one command of the test image in a new container, with flags of
// `docker run`, and returns its outcome, which may be a refusal.
func (s *Stage) Toolbox(t testing.TB, flags []string, args ...string) testimage.Result {
	t.Helper()
	return s.result(t, append(append([]string{"run", "--rm"}, flags...), append([]string{testimage.Name}, args...)...)...)
}

// Exec runs one command of the test image in a running container.
func (s *Stage) Exec(t testing.TB, container string, args ...string) testimage.Result {
	t.Helper()
	return s.result(t, append([]string{"exec", container, "/bin/toolbox"}, args...)...)
}

func (s *Stage) result(t testing.TB, args ...string) testimage.Result {
	t.Helper()
	out, errOut, _ := s.run(t, "docker", args...)
	result, err := testimage.Parse([]byte(out))
	if err != nil {
		t.Fatalf("docker %s: %v\n%s%s", strings.Join(args, " "), err, out, errOut)
	}
	return result
}

// Serve starts a container that serves: it returns when the toolbox command
// listens, and removes the container when the test ends.
func (s *Stage) Serve(t testing.TB, name string, flags []string, args ...string) {
	t.Helper()
	s.Docker(t, append(append([]string{"run", "-d", "--name", name}, flags...), append([]string{testimage.Name}, args...)...)...)
	t.Cleanup(func() { s.Docker(t, "rm", "-f", name) })
	Eventually(t, 10*time.Second, "container "+name+" listens", func() bool {
		out, _ := s.TryDocker(t, "logs", name)
		return strings.Contains(out, `"listening"`)
	})
}

// Status is `portolan status --json`.
func (s *Stage) Status(t testing.TB) api.Status {
	t.Helper()
	var status api.Status
	text := s.Portolan(t, "status", "--json")
	if err := json.Unmarshal([]byte(text), &status); err != nil {
		t.Fatalf("read status: %v\n%s", err, text)
	}
	return status
}

// Eventually waits until ok, or ends the test after limit.
func Eventually(t testing.TB, limit time.Duration, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(limit); !ok(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%s: not so after %s", what, limit)
		}
	}
}

// showLogs prints the ends of all logs.
func (s *Stage) showLogs(t testing.TB) {
	t.Helper()
	files, _ := filepath.Glob(filepath.Join(s.StateDir, "*", "log", "*.log")) // the pattern is right
	for _, path := range files {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Log(err)
			continue
		}
		const tail = 3000
		t.Logf("%s ends with\n%s", path, text[max(0, len(text)-tail):])
	}
}
