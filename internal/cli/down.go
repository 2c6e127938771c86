package cli

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/portolan-net/portolan/internal/cli/launch"
	"github.com/portolan-net/portolan/internal/client"
	"github.com/portolan-net/portolan/internal/dockercontext"
)

const (
	// downTime is how long the daemon may take to end containers, engine and
	// machine: dockerd gives each container 10 s by default.
	downTime = 60 * time.Second
	// holderTime is downTime for a daemon that can only be signalled: it gives
	// dockerd 30 s.
	holderTime = 40 * time.Second
	// exitTime is how long its process may outlive its machine.
	exitTime = 10 * time.Second
	// lockTime is how long the lock may outlive the daemon's process.
	lockTime = 5 * time.Second
)

const downHelp = `Stops the containers, the engine, the machine and the daemon, and removes the
machine's docker context. Images, volumes and stopped containers stay for the
next 'portolan up', unless --purge deletes them.

It also takes down what is left of a machine whose daemon died, and does nothing
when nothing runs.`

const downExample = `  portolan down
  portolan down --purge          # images, volumes and logs of this profile as well`

func (g *global) downCommand() *cobra.Command {
	var purge bool
	cmd := &cobra.Command{
		Use:     "down",
		Short:   "Stop the machine",
		Long:    downHelp,
		Example: downExample,
		Args:    noArgs,
		RunE:    func(cmd *cobra.Command, _ []string) error { return g.down(cmd.Context(), purge) },
	}
	cmd.Flags().BoolVar(&purge, "purge", false, "also delete the profile's images, volumes, containers and logs")
	return cmd
}

// downResult is what `down --json` prints.
type downResult struct {
	Profile    string `json:"profile"`
	WasRunning bool   `json:"wasRunning"`
	Purged     bool   `json:"purged"` // the state was there and is deleted
}

func (g *global) down(ctx context.Context, purge bool) error {
	result, err := g.stop(ctx, purge)
	if err != nil {
		return fmt.Errorf("stop %s: %w", g.profile.ContextName(), err)
	}
	if err := g.removeContext(); err != nil {
		return fmt.Errorf("%s is stopped, but its docker context is left: %w", g.profile.ContextName(), err)
	}
	switch {
	case g.json:
		return g.printJSON(result)
	case result.WasRunning:
		g.printf("%s is stopped\n", g.profile.ContextName())
	default:
		g.printf("%s was not running\n", g.profile.ContextName())
	}
	switch {
	case result.Purged:
		g.printf("deleted %s\n", g.profile.StateDir)
	case purge:
		g.printf("nothing to delete: there is no %s\n", g.profile.StateDir)
	}
	return nil
}

// stop ends the daemon and its machine, whatever state they are in.
func (g *global) stop(ctx context.Context, purge bool) (downResult, error) {
	result := downResult{Profile: g.profile.Name}
	pid, clean, err := g.stopDaemon(ctx)
	if err != nil {
		return result, err
	}
	result.WasRunning = pid != 0
	lockCtx, cancel := context.WithTimeout(ctx, lockTime)
	defer cancel()
	lock, err := launch.Wait(lockCtx, g.profile.LockFile())
	if err != nil {
		return result, err
	}
	defer lock.Remove()
	if !clean && g.Platform.ForceDown != nil {
		if err := g.Platform.ForceDown(ctx, g.profile); err != nil {
			return result, err
		}
	}
	if purge {
		result.Purged, err = g.purge(ctx)
	}
	_ = os.Remove(g.profile.ConfigDir) // the daemon made it; where there are settings it stays
	return result, err
}

// purge deletes the profile's state. It returns false when there was none.
func (g *global) purge(ctx context.Context) (bool, error) {
	if _, err := os.Lstat(g.profile.StateDir); errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if g.Platform.StateUnused != nil {
		if err := g.Platform.StateUnused(g.profile); err != nil {
			return false, fmt.Errorf("delete state: %w", err)
		}
	}
	err := purgeState(g.profile, func(dir string) error { return g.removeTree(ctx, dir) })
	return err == nil, err
}

// removeTree deletes a directory of the profile's.
func (g *global) removeTree(ctx context.Context, dir string) error {
	if g.Platform.RemoveTree == nil {
		return os.RemoveAll(dir)
	}
	return g.Platform.RemoveTree(ctx, dir)
}

// stopDaemon ends the daemon's process: by asking, else by signals. clean is
// false when there was none or it did not say that its machine is gone. pid is
// 0 when there was none.
func (g *global) stopDaemon(ctx context.Context) (pid int, clean bool, err error) {
	status, err := g.status(ctx)
	switch {
	case errors.Is(err, client.ErrNotRunning):
		return g.stopHolder(ctx)
	case err != nil:
		g.warnf("%v; ending the daemon by a signal", err)
		return g.stopHolder(ctx)
	}
	if pid = status.Daemon.PID; pid == 0 {
		return 0, false, errors.New("the daemon does not tell its process id")
	}
	askCtx, cancel := context.WithTimeout(ctx, downTime)
	defer cancel()
	if err := g.client().Down(askCtx); err != nil && !errors.Is(err, client.ErrNotRunning) {
		if ctx.Err() != nil {
			return pid, false, err
		}
		g.warnf("%v; ending the daemon by a signal", err)
		_, _, err = g.stopHolder(ctx)
		return pid, false, err
	}
	goneCtx, cancelGone := context.WithTimeout(ctx, exitTime)
	defer cancelGone()
	if launch.Gone(goneCtx, pid) == nil {
		return pid, true, nil
	}
	_, _, err = g.stopHolder(ctx)
	return pid, false, err
}

// stopHolder ends the process that holds the lock: the keeper of a daemon that
// does not answer, which would start a daemon that is signalled alone again, or
// an up whose daemon does not answer yet. It is never clean:
// a daemon that is signalled leaves its machine to the next one.
func (g *global) stopHolder(ctx context.Context) (pid int, clean bool, err error) {
	lock, err := launch.Acquire(g.profile.LockFile())
	var held *launch.HeldError
	switch {
	case err == nil:
		lock.Release()
		return g.stopOrphans(ctx)
	case !errors.As(err, &held) || held.PID == 0:
		return 0, false, err
	}
	_, err = launch.Terminate(ctx, held.PID, holderTime)
	return held.PID, false, err
}

// stopOrphans ends keeper and daemon when the lock was removed under them.
func (g *global) stopOrphans(ctx context.Context) (pid int, clean bool, err error) {
	for _, pid = range launch.Orphans(g.profile.LockFile()) {
		if _, err := launch.Terminate(ctx, pid, holderTime); err != nil {
			return pid, false, err
		}
	}
	return pid, false, nil
}

func (g *global) removeContext() error {
	dir, err := dockercontext.DefaultDir()
	if err != nil {
		return err
	}
	if _, err = dir.Remove(g.profile.ContextName(), g.dockerHost()); err != nil {
		return err
	}
	return g.unlinkPlugins(dir)
}
