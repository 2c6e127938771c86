package lab

import (
	"fmt"
	"io"
	"os/exec"
	"syscall"
)

// watchdogScript waits for the end of its input, then kills all processes that
// carry the mark $1, new ones of theirs included, and removes that directory.
const watchdogScript = `
while read -r _; do :; done
for turn in 1 2 3 4 5 6 7 8 9 10; do
	found=$(grep -lsF -- "$1" /proc/[0-9]*/mountinfo /proc/[0-9]*/environ)
	[ -n "$found" ] || break
	for file in $found; do
		pid=${file#/proc/}
		kill -9 "${pid%%/*}" 2>/dev/null
	done
	sleep 0.1
done
rm -rf --one-file-system -- "$1"
`

// watchdog is the process that cleans up after the test process.
type watchdog struct {
	cmd  *exec.Cmd
	pipe io.Closer
}

// startWatchdog starts a watchdog that the caller keeps until stop: were it
// collected as garbage, its pipe would end. It is in a session of its own, so that
// the terminal's interrupt reaches the test process only.
func startWatchdog(dir string) (*watchdog, error) {
	cmd := exec.Command("/bin/sh", "-c", watchdogScript, "portolan-lab", dir)
	cmd.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin"}
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	pipe, err := cmd.StdinPipe()
	if err != nil {
		return nil, fmt.Errorf("start watchdog: %w", err)
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start watchdog: %w", err)
	}
	return &watchdog{cmd: cmd, pipe: pipe}, nil
}

// stop lets the watchdog do its work and waits for it.
func (w *watchdog) stop() error {
	if err := w.pipe.Close(); err != nil {
		return err
	}
	if err := w.cmd.Wait(); err != nil {
		return fmt.Errorf("stop watchdog: %w", err)
	}
	return nil
}
