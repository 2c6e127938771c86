package guest

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"time"

	"golang.org/x/sys/unix"

	"github.com/portolan-net/portolan/internal/spec"
)

// gateFD is the pipe on which PID 1 waits for the router.
const gateFD = 3

// Prepare is the first half of PID 1: it waits until the helper has built the
// link, makes the machine's control group and mount view, and replaces itself
// by the second half (`portolan-agent reap`), which keeps nothing of it.
func Prepare(sharedDir string) error {
	gate := os.NewFile(gateFD, "gate")
	if n, err := gate.Read(make([]byte, 1)); n != 1 {
		return fmt.Errorf("wait for router: %w", err)
	}
	_ = gate.Close()
	cfg, err := spec.Load(sharedDir)
	if err != nil {
		return err
	}
	// A namespace belongs to a thread until exec makes it the process's.
	runtime.LockOSThread()
	if err := unix.Unshare(unix.CLONE_NEWCGROUP); err != nil {
		return fmt.Errorf("enter control group namespace: %w", err)
	}
	if err := unix.Sethostname([]byte("portolan")); err != nil {
		return fmt.Errorf("set host name: %w", err)
	}
	if err := setupMounts(cfg); err != nil {
		return err
	}
	if err := WriteNames(cfg); err != nil {
		return err
	}
	return unix.Exec(cfg.AgentPath, []string{cfg.AgentPath, "reap"}, os.Environ())
}

// respawnDelay keeps an agent that dies at once from using up the processor.
const respawnDelay = 500 * time.Millisecond

// Reap is PID 1's second half: it keeps the agent running, holds its sockets, and
// reaps whatever else dies, so that any process of the machine may. It never
// returns while the machine lives.
func Reap(agent string, log *slog.Logger) error {
	if os.Getpid() != 1 {
		return errors.New("reap: only PID 1 of a machine does this")
	}
	// The kernel keeps from PID 1 what it does not handle, but Go handles most
	// signals, and ends: root of a container with --pid host could end the machine.
	// Caught, not ignored, since children inherit what is ignored.
	signal.Notify(make(chan os.Signal, 1))
	sockets, err := newKeeper(log)
	if err != nil {
		return err
	}
	for {
		cmd := exec.Command(agent, "serve")
		cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
		if err := sockets.start(cmd); err != nil {
			log.Error("start agent", "err", err)
		} else {
			pid := cmd.Process.Pid
			_ = cmd.Process.Release() // its pidfd, which no Wait of ours closes
			log.Warn("agent ended", "status", reapUntil(pid))
		}
		time.Sleep(respawnDelay)
	}
}

// reapUntil waits for children until that one has ended.
func reapUntil(pid int) unix.WaitStatus {
	var status unix.WaitStatus
	for {
		if got, err := unix.Wait4(-1, &status, 0, nil); err == nil && got == pid {
			return status
		} else if errors.Is(err, unix.ECHILD) {
			return status
		}
	}
}
