//go:build linux

package launch

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/portolan-net/portolan/internal/api"
)

// The environment that makes this test's binary a daemon of sorts.
const (
	modeKey = "LAUNCH_TEST_MODE"
	lockKey = "LAUNCH_TEST_LOCK"
)

// soon is what takes no time, five times and more.
const soon = 5 * time.Second

func TestMain(m *testing.M) {
	if mode := os.Getenv(modeKey); mode != "" {
		os.Exit(child(mode))
	}
	goleak.VerifyTestMain(m)
}

func child(mode string) int {
	progress := os.NewFile(ProgressFD, "progress")
	switch mode {
	case "ready":
		if _, err := Adopt(LockFD, os.Getenv(lockKey)); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		sid, _ := unix.Getsid(0)
		dir, _ := os.Getwd()
		fmt.Fprintf(progress, "{\"name\":\"session %v in %s\",\"done\":true}\n{\"name\":\"ready\"}\n", sid == os.Getpid(), dir)
		time.Sleep(time.Minute)
	case "garbage":
		fmt.Fprintln(progress, "hello")
	case "killed":
		_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
		time.Sleep(time.Minute)
	case "polite", "stubborn":
		if mode == "stubborn" {
			signal.Ignore(syscall.SIGTERM)
		}
		fmt.Println("here")
		time.Sleep(time.Minute)
	}
	return 0
}

func command(t *testing.T, mode string) Command {
	t.Helper()
	dir := t.TempDir()
	lock, err := Acquire(filepath.Join(dir, "run", "lock"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(lock.Release)
	return Command{
		Path: os.Args[0],
		Env:  []string{modeKey + "=" + mode, lockKey + "=" + lock.file.Name()},
		Log:  filepath.Join(dir, "log", "daemon.log"),
		Lock: lock,
	}
}

// The lock passes to the daemon without a gap and ends with it.
func TestLockPassesToTheDaemon(t *testing.T) {
	c := command(t, "ready")
	path := c.Lock.file.Name()
	var steps []string
	cmd, err := Start(t.Context(), c, func(s api.Step) { steps = append(steps, s.Name) })
	if err != nil {
		t.Fatal(err)
	}
	if want := "session true in /"; len(steps) != 2 || steps[0] != want || steps[1] != ReadyStep {
		t.Errorf("steps = %q, want %q and ready", steps, want)
	}
	c.Lock.Release()
	var held *HeldError
	if _, err := Acquire(path); !errors.As(err, &held) || held.PID != cmd.Process.Pid {
		t.Errorf("Acquire = %v, want it held by %d", err, cmd.Process.Pid)
	}
	if pid, is := Holder(path); !is || pid != cmd.Process.Pid {
		t.Errorf("Holder = %d, %v", pid, is)
	}
	if killed, err := Terminate(t.Context(), cmd.Process.Pid, soon); killed || err != nil {
		t.Errorf("Terminate = %v, %v", killed, err)
	}
	_ = cmd.Wait()
	if pid, is := Holder(path); is {
		t.Errorf("Holder = %d after its end", pid)
	}
	lock, err := Acquire(path)
	if err != nil {
		t.Fatal(err)
	}
	lock.Remove()
	if _, err := os.Stat(filepath.Dir(path)); !os.IsNotExist(err) {
		t.Errorf("the lock's directory is left: %v", err)
	}
}

func TestStartFails(t *testing.T) {
	for _, c := range []struct {
		mode, want string
		dirty      bool
	}{
		{"garbage", `read the daemon's progress "hello"`, false},
		{"exit", "the daemon ended before it was ready", false},
		{"killed", "the daemon ended (signal: killed)", true},
	} {
		t.Run(c.mode, func(t *testing.T) {
			_, err := Start(t.Context(), command(t, c.mode), func(api.Step) {})
			var failure *Failure
			if !errors.As(err, &failure) || !strings.HasPrefix(err.Error(), c.want) || failure.Dirty != c.dirty {
				t.Errorf("Start = %#v, want %q, dirty %v", err, c.want, c.dirty)
			}
		})
	}
}

func TestStartWithoutAProgram(t *testing.T) {
	c := command(t, "")
	c.Path = "/does/not/exist"
	var failure *Failure
	if _, err := Start(t.Context(), c, func(api.Step) {}); err == nil || errors.As(err, &failure) {
		t.Errorf("Start = %v, want an error from before the process", err)
	}
}

func TestTerminate(t *testing.T) {
	for mode, kill := range map[string]bool{"polite": false, "stubborn": true} {
		t.Run(mode, func(t *testing.T) {
			cmd := exec.CommandContext(t.Context(), os.Args[0])
			cmd.Env = append(os.Environ(), modeKey+"="+mode)
			out, err := cmd.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			if _, err := bufio.NewReader(out).ReadString('\n'); err != nil {
				t.Fatal(err)
			}
			killed, err := Terminate(t.Context(), cmd.Process.Pid, 200*time.Millisecond)
			if killed != kill || err != nil {
				t.Errorf("Terminate = %v, %v, want killed %v", killed, err, kill)
			}
			_ = cmd.Wait()
			if killed, err := Terminate(t.Context(), cmd.Process.Pid, soon); killed || err != nil {
				t.Errorf("Terminate of nobody = %v, %v", killed, err)
			}
		})
	}
}

func TestGoneEndsWithContext(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if err := Gone(ctx, os.Getpid()); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Gone of this process = %v", err)
	}
}

func TestWaitForLock(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	first, err := Acquire(path)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*lockPoll)
	defer cancel()
	var held *HeldError
	if _, err := Wait(ctx, path); !errors.As(err, &held) || held.PID != os.Getpid() {
		t.Errorf("Wait for a held lock = %v", err)
	}
	// The file goes away under a waiting one: it must end with the new file.
	time.AfterFunc(lockPoll, first.Remove)
	second, err := Wait(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	defer second.Release()
	if !sameFile(second.file, path) {
		t.Error("the lock is on a file that was removed")
	}
}

func TestAdoptRefusesAnotherFile(t *testing.T) {
	dir := t.TempDir()
	lock, err := Acquire(filepath.Join(dir, "lock"))
	if err != nil {
		t.Fatal(err)
	}
	defer lock.Release()
	other, err := os.Create(filepath.Join(dir, "other"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = other.Close() }()
	fd, err := unix.Dup(int(other.Fd()))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Adopt(uintptr(fd), lock.file.Name()); err == nil {
		t.Error("Adopt takes a file that is not the lock")
	}
}

func TestLogRotates(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log", "daemon.log")
	for _, size := range []int64{maxLog, maxLog + 1} {
		log, start, err := openLog(path)
		if err != nil {
			t.Fatal(err)
		}
		if start != 0 {
			t.Errorf("size %d: begins at %d", size, start)
		}
		if err := errors.Join(log.Truncate(size), log.Close()); err != nil {
			t.Fatal(err)
		}
		if size == maxLog { // not yet
			if _, start, err = openLog(path); err != nil || start != maxLog {
				t.Errorf("begins at %d, %v", start, err)
			}
			_ = os.Remove(path)
		}
	}
	log, start, err := openLog(path)
	if err != nil || start != 0 {
		t.Errorf("begins at %d, %v, want a new log", start, err)
	}
	_ = log.Close()
	if info, err := os.Stat(path + ".1"); err != nil || info.Size() != maxLog+1 {
		t.Errorf("the old log: %v, %v", info, err)
	}
}

func TestLastWords(t *testing.T) {
	long := strings.Repeat("a line\n", maxReason)
	for _, c := range []struct{ name, text, want string }{
		{"nothing", " \n", ""},
		{"lines", "one\ntwo\n", "one\ntwo"},
		{"panic", "time=1\npanic: boom\n\ngoroutine 1 [running]:\nmain()\n", "panic: boom"},
		{"fatal error", "fatal error: all asleep\n\ngoroutine 1\n", "fatal error: all asleep"},
		{"a word about panic", "do not panic: all is well\n", "do not panic: all is well"},
	} {
		if got := lastWords(c.text); got != c.want {
			t.Errorf("%s: lastWords = %q, want %q", c.name, got, c.want)
		}
	}
	if got := lastWords(long); len(got) > maxReason || !strings.HasPrefix(got, "a line\n") {
		t.Errorf("lastWords of much is %d bytes and begins %.10q", len(got), got)
	}
}

// A daemon that is killed before it was ready leaves a mess, and the keeper's
// code says so.
func TestKeeperTellsOfAKilledDaemon(t *testing.T) {
	for mode, want := range map[string]int{"killed": exitSignal + int(syscall.SIGKILL), "exit": 0} {
		_, progress, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		if got := Keep(t.Context(), command(t, mode), progress, slog.New(slog.DiscardHandler)); got != want {
			t.Errorf("a daemon that does %s first: Keep = %d, want %d", mode, got, want)
		}
	}
}
