package guest

import (
	"errors"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// A process of the machine can't end PID 1, whatever it sends.
func TestReapOutlivesSignals(t *testing.T) {
	const mark = "PORTOLAN_TEST_REAP"
	if agent := os.Getenv(mark); agent != "" {
		t.Fatal(Reap(agent, slog.New(slog.DiscardHandler)))
	}
	dir := t.TempDir()
	agent, done := filepath.Join(dir, "agent"), filepath.Join(dir, "done")
	script := "#!/bin/sh\nfor s in HUP INT QUIT TERM USR1 ABRT KILL; do kill -$s 1; sleep 0.05; done; sleep 0.2; touch " + done + "; exec sleep 60\n"
	if err := os.WriteFile(agent, []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^"+t.Name()+"$")
	cmd.Env = append(os.Environ(), mark+"="+agent)
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWPID, Pdeathsig: unix.SIGKILL}
	if err := cmd.Start(); errors.Is(err, unix.EPERM) {
		t.Skip("needs root")
	} else if err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}()
	eventually(t, func() bool {
		_, err := os.Stat(done)
		return err == nil
	})
	if err := cmd.Process.Signal(syscall.Signal(0)); err != nil {
		t.Errorf("PID 1 after all signals: %v", err)
	}
}
