package engine

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// reloadWait is how long dockerd gets to read its configuration again.
const reloadWait = 200 * time.Millisecond

// Shutdown ends supervision and the engine in order: dockerd stops every
// container with the container's own signal and time-out and remembers which
// ran, so that restart policies hold at the next start.
func (s *Supervisor) Shutdown(ctx context.Context) error {
	s.stopping.Store(true)
	s.config.Lock()
	defer s.config.Unlock()
	dockerd := process{name: "dockerd", runDir: s.Layout.RuntimeDir, argv: []string{"dockerd"}}
	pid := dockerd.adopt()
	if pid == 0 {
		return nil
	}
	if s.liveRestore() {
		// With live-restore dockerd leaves its containers running when it
		// ends; it reads the key again on SIGHUP.
		s.Options = withOption(s.Options, "live-restore", false)
		if err := s.writeConfig(); err != nil {
			return err
		}
		if err := unix.Kill(pid, unix.SIGHUP); err != nil {
			return fmt.Errorf("reload dockerd: %w", err)
		}
		select {
		case <-time.After(reloadWait):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	if err := unix.Kill(pid, unix.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("stop dockerd: %w", err)
	}
	return awaitExit(ctx, pid)
}

func (s *Supervisor) liveRestore() bool {
	value, set := s.Options["live-restore"].(bool)
	return value || !set
}

func withOption(options map[string]any, key string, value any) map[string]any {
	changed := map[string]any{key: value}
	for k, v := range options {
		if k != key {
			changed[k] = v
		}
	}
	return changed
}
