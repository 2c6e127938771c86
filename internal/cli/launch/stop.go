package launch

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"
)

// killWait is how long the kernel gets to end a killed process.
const killWait = 5 * time.Second

// Terminate makes sure that the process ends: SIGTERM, then SIGKILL after
// grace. It reports whether the process had to be killed, and so could not
// clean up. ctx is not for giving up early: a half-stopped daemon is worse.
func Terminate(ctx context.Context, pid int, grace time.Duration) (killed bool, err error) {
	process, err := os.FindProcess(pid)
	if err != nil {
		return false, fmt.Errorf("find process %d: %w", pid, err)
	}
	if err := terminate(process); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return false, fmt.Errorf("end process %d: %w", pid, err)
	}
	if within(ctx, grace, pid) == nil {
		return false, nil
	}
	if err := process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return false, fmt.Errorf("kill process %d: %w", pid, err)
	}
	if err := within(ctx, killWait, pid); err != nil {
		return true, fmt.Errorf("kill process %d: it does not end: %w", pid, err)
	}
	return true, nil
}

func within(ctx context.Context, limit time.Duration, pid int) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), limit)
	defer cancel()
	return Gone(ctx, pid)
}
