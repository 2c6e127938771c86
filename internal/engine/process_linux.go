package engine

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// process is one supervised program. It outlives the agent: a new agent finds
// it again by its pid file and watches it without being its parent.
type process struct {
	name    string // also of the pid file
	argv    []string
	env     []string
	logPath string
	runDir  string
}

func (p process) pidFile() string { return filepath.Join(p.runDir, p.name+".pid") }

// adopt returns the pid of the program when it runs already, else 0.
func (p process) adopt() int {
	text, err := os.ReadFile(p.pidFile())
	if err != nil {
		return 0
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		return 0
	}
	exe, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", pid))
	// An upgrade of the engine replaces the file of a program that runs on.
	exe = strings.TrimSuffix(exe, " (deleted)")
	if err != nil || filepath.Base(exe) != filepath.Base(p.argv[0]) {
		return 0
	}
	return pid
}

// run starts the program, or adopts it, and returns when it has ended, with
// what is known of its end. When ctx ends first the program goes on.
func (p process) run(ctx context.Context, log *slog.Logger) (exit string, err error) {
	if pid := p.adopt(); pid != 0 {
		log.Info("engine program goes on", "program", p.name, "pid", pid)
		return "ended", awaitExit(ctx, pid)
	}
	logFile, err := os.OpenFile(p.logPath, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return "", fmt.Errorf("open log of %s: %w", p.name, err)
	}
	defer logFile.Close()
	cmd := exec.Command(p.argv[0], p.argv[1:]...)
	cmd.Env = p.env
	cmd.Stdout, cmd.Stderr = logFile, logFile
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return "", fmt.Errorf("start %s: %w", p.name, err)
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = cmd.Wait() // its state is read below
	}()
	if err := os.WriteFile(p.pidFile(), []byte(strconv.Itoa(cmd.Process.Pid)), 0o600); err != nil {
		return "", err
	}
	log.Info("engine program started", "program", p.name, "pid", cmd.Process.Pid)
	select {
	case <-ended:
		return cmd.ProcessState.String(), nil
	case <-ctx.Done():
		return "", ctx.Err() // the goroutine ends with the program or with us
	}
}

// pollInterval is how often awaitExit looks whether ctx has ended.
const pollInterval = 500 * time.Millisecond

// awaitExit waits for a process that is not our child.
func awaitExit(ctx context.Context, pid int) error {
	fd, err := unix.PidfdOpen(pid, 0)
	if errors.Is(err, unix.ESRCH) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("watch process %d: %w", pid, err)
	}
	defer unix.Close(fd)
	poll := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
	for ctx.Err() == nil {
		n, err := unix.Poll(poll, int(pollInterval.Milliseconds()))
		if n > 0 {
			return nil
		}
		if err != nil && !errors.Is(err, unix.EINTR) {
			return fmt.Errorf("watch process %d: %w", pid, err)
		}
	}
	return ctx.Err()
}
