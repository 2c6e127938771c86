//go:build unix

package cli_test

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/portolan-net/portolan/internal/cli"
	"github.com/portolan-net/portolan/internal/cli/launch"
	"github.com/portolan-net/portolan/internal/profile"
)

// patience is how long a script waits for something that takes no time.
const patience = 5 * time.Second

// TestMain makes this test's binary the commands of the scripts: portolan, with
// a fake machine behind it, and mac, which is portolan where no machine can run.
func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){
		"portolan": func() { os.Exit(command(fakePlatform())) },
		"mac":      func() { os.Exit(command(cli.Platform{})) },
	})
}

func command(platform cli.Platform) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	executable, err := os.Executable()
	if err != nil {
		panic(err)
	}
	program := cli.Program{
		Platform: platform, Version: "v1.2.3", Executable: executable,
		AdminFiles: []string{filepath.Join(os.Getenv("FAKE_ADMIN"), "admin-settings.json")},
		In:         os.Stdin, Out: os.Stdout, Err: os.Stderr,
	}
	return program.Main(ctx, os.Args[1:])
}

func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:   "testdata/script",
		Setup: setup,
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"exits":  exits,
			"daemon": daemonIs,
			"until":  until,
			"signal": signalDaemon,
			"kill-keeper": func(ts *testscript.TestScript, _ bool, _ []string) {
				killKeeper(ts.Getenv("PORTOLAN_RUNTIME_DIR"))
			},
		},
	})
}

// setup gives a script directories of its own, and ends its daemon whatever
// becomes of the script.
func setup(env *testscript.Env) error {
	run, err := os.MkdirTemp("", "ptc") // short: sockets lie below it
	if err != nil {
		return err
	}
	env.Setenv("PORTOLAN_STATE_DIR", filepath.Join(env.WorkDir, "state"))
	env.Setenv("PORTOLAN_RUNTIME_DIR", run)
	env.Setenv("PORTOLAN_CONFIG_DIR", filepath.Join(env.WorkDir, "config"))
	env.Setenv("PORTOLAN_PROFILE", "")
	env.Setenv("DOCKER_CONFIG", filepath.Join(env.WorkDir, "docker"))
	env.Setenv("SHELL", "/bin/bash")
	env.Setenv("GORACE", "atexit_sleep_ms=0") // else every command lasts a second longer under the race detector
	env.Setenv("FAKE_ADMIN", filepath.Join(env.WorkDir, "admin"))
	env.Setenv("FAKE_PIDS", filepath.Join(env.WorkDir, "pids"))
	env.Defer(func() {
		killKeeper(run)
		for _, pid := range pids(filepath.Join(env.WorkDir, "pids")) {
			if alive(pid) {
				_ = syscall.Kill(pid, syscall.SIGKILL)
			}
			ctx, cancel := context.WithTimeout(context.Background(), patience)
			_ = launch.Gone(ctx, pid) // else it still makes files below run
			cancel()
		}
		_ = os.RemoveAll(run)
	})
	return nil
}

// killKeeper ends the process that the lock names, with no chance to end the
// daemon along.
func killKeeper(run string) {
	locks, _ := filepath.Glob(filepath.Join(run, "*", "lock"))
	for _, path := range locks {
		if pid, held := launch.Holder(path); held && pid != 0 {
			_ = syscall.Kill(pid, syscall.SIGKILL)
			ctx, cancel := context.WithTimeout(context.Background(), patience)
			_ = launch.Gone(ctx, pid)
			cancel()
		}
	}
}

// pids are the fake daemons that a script started, oldest first.
func pids(path string) []int {
	text, _ := os.ReadFile(path)
	var found []int
	for line := range strings.Lines(string(text)) {
		if pid, err := strconv.Atoi(strings.TrimSpace(line)); err == nil {
			found = append(found, pid)
		}
	}
	return found
}

func alive(pid int) bool {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	return launch.Gone(ctx, pid) != nil
}

// exits CODE COMMAND...: the command ends with that exit code.
func exits(ts *testscript.TestScript, neg bool, args []string) {
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	if neg {
		ts.Fatalf("! exits is not supported")
	}
	err = ts.Exec(args[1], args[2:]...)
	var exit *exec.ExitError
	switch {
	case err == nil && want == 0:
	case errors.As(err, &exit) && exit.ExitCode() == want:
	default:
		ts.Fatalf("%v ends with %v, want exit code %d", args[1:], err, want)
	}
}

// daemon alive, or daemon gone: the last daemon that the script started.
func daemonIs(ts *testscript.TestScript, _ bool, args []string) {
	started := pids(ts.Getenv("FAKE_PIDS"))
	if len(started) == 0 {
		ts.Fatalf("no daemon was started")
	}
	if got := alive(started[len(started)-1]); got != (args[0] == "alive") {
		ts.Fatalf("daemon alive = %v, want %s", got, args[0])
	}
}

// signal SIGNAL: sends it to the last daemon.
func signalDaemon(ts *testscript.TestScript, _ bool, args []string) {
	number, err := strconv.Atoi(args[0])
	ts.Check(err)
	started := pids(ts.Getenv("FAKE_PIDS"))
	ts.Check(syscall.Kill(started[len(started)-1], syscall.Signal(number)))
	if number == int(syscall.SIGKILL) {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		ts.Check(launch.Gone(ctx, started[len(started)-1]))
	}
}

// until FILE TEXT: waits until the file holds the text.
func until(ts *testscript.TestScript, _ bool, args []string) {
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		if text, _ := os.ReadFile(ts.MkAbs(args[0])); strings.Contains(string(text), args[1]) {
			return
		}
	}
	ts.Fatalf("%s does not hold %q", args[0], args[1])
}

// forceDown records that it was called.
func forceDown(_ context.Context, p profile.Profile) error {
	if err := os.MkdirAll(filepath.Dir(p.StateDir), 0o700); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(filepath.Dir(p.StateDir), "forced-"+p.Name), nil, 0o600)
}
