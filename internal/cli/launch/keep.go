package launch

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"syscall"
	"time"

	"github.com/portolan-net/portolan/internal/api"
)

// KeptFlag tells a daemon that a keeper started it: the lock names the keeper,
// and standard input ends with the keeper.
const KeptFlag = "--kept"

// How soon a daemon that died is started again: at once when it had become
// ready and lived on for a second, slower when it can't live.
const (
	restartMin  = 50 * time.Millisecond
	restartMax  = 10 * time.Second
	healthyLife = time.Second
)

// Keep runs the daemon, and runs it again whenever it dies after it was ready
// once: the machine has gone on, and the new daemon takes it over. It returns
// the exit code for its own process when the daemon has ended by itself with
// code 0, when its first start failed, when the lock's file was removed, by which
// alone the machine would be found, or when ctx ends; then the daemon gets
// SIGTERM and time to end.
//
// progress gets what the first daemon reports, and is closed.
func Keep(ctx context.Context, c Command, progress io.WriteCloser, log *slog.Logger) int {
	defer func() { _ = progress.Close() }()
	wasReady := false
	for delay := restartMin; ; delay = min(2*delay, restartMax) {
		began := time.Now()
		code, ready, err := runOnce(ctx, c, progress)
		if err != nil {
			log.Error("run daemon", "err", err)
		}
		wasReady = wasReady || ready
		if code == 0 || !wasReady || ctx.Err() != nil {
			return code
		}
		if ready && time.Since(began) > healthyLife {
			delay = restartMin
		}
		if !sameFile(c.Lock.file, c.Lock.file.Name()) {
			log.Error("daemon died, and the runtime directory was removed; it is not started again", "code", code)
			return code
		}
		log.Warn("daemon died; it is started again", "code", code)
		select {
		case <-ctx.Done():
			return 0
		case <-time.After(delay):
		}
	}
}

// exitSignal and the signal's number is the code of a daemon that one ended: it
// did not clean up, and whoever waits for the start must know.
const exitSignal = 128

// runOnce runs one daemon to its end. code is 1 for one that could not be
// started.
func runOnce(ctx context.Context, c Command, progress io.WriteCloser) (code int, ready bool, err error) {
	steps, theirs, err := os.Pipe()
	if err != nil {
		return 1, false, fmt.Errorf("make progress pipe: %w", err)
	}
	defer func() { _ = steps.Close() }()
	alive, ours, err := os.Pipe() // never written; its end tells that we are gone
	if err != nil {
		_ = theirs.Close()
		return 1, false, fmt.Errorf("make life pipe: %w", err)
	}
	defer func() { _ = ours.Close() }()
	cmd := exec.Command(c.Path, append(c.Args, KeptFlag,
		fmt.Sprintf("--progress-fd=%d", ProgressFD), fmt.Sprintf("--lock-fd=%d", LockFD))...)
	cmd.Env = append(os.Environ(), c.Env...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = alive, os.Stdout, os.Stderr
	cmd.ExtraFiles = []*os.File{theirs, c.Lock.file}
	cmd.SysProcAttr = ownSession()
	err = cmd.Start()
	_, _ = theirs.Close(), alive.Close()
	if err != nil {
		return 1, false, fmt.Errorf("start the daemon: %w", err)
	}
	stop := context.AfterFunc(ctx, func() { _, _ = Terminate(ctx, cmd.Process.Pid, cleanUpTime) })
	defer stop()
	ready = passOn(steps, progress)
	err = cmd.Wait()
	if status, ok := cmd.ProcessState.Sys().(syscall.WaitStatus); ok && status.Signaled() {
		return exitSignal + int(status.Signal()), ready, err
	}
	if _, exited := errors.AsType[*exec.ExitError](err); exited {
		err = nil // the code says it
	}
	return cmd.ProcessState.ExitCode(), ready, err
}

// passOn copies the daemon's progress until it ends and reports whether the
// daemon became ready.
func passOn(steps io.Reader, progress io.WriteCloser) (ready bool) {
	for lines := bufio.NewScanner(steps); lines.Scan(); {
		_, _ = fmt.Fprintf(progress, "%s\n", lines.Bytes()) // who waited may have gone
		var step api.Step
		if json.Unmarshal(lines.Bytes(), &step) == nil && step.Name == ReadyStep && step.Error == "" {
			ready = true
			_ = progress.Close() // up goes on now, not when the daemon ends
		}
	}
	return ready
}
