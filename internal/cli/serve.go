package cli

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/portolan-net/portolan/internal/api"
	"github.com/portolan-net/portolan/internal/cli/launch"
)

const serveHelp = `Runs the daemon in the foreground: what 'portolan up' starts in the background.
For service managers and for looking closely. It ends, and takes the machine
down, on SIGINT, SIGTERM or 'portolan down'. No docker context is made.

With --progress-fd the start is reported on that descriptor as JSON lines, the
last of which has the name "ready" or an error.`

// foregroundLockWait covers a lock that a status or an ending daemon holds for
// a moment.
const foregroundLockWait = time.Second

type serveFlags struct {
	engine           string
	progressFD, lock int
	debug            bool
}

func (g *global) serveCommand() *cobra.Command {
	var f serveFlags
	cmd := &cobra.Command{
		Use:     "serve",
		Short:   "Run the daemon in the foreground",
		Long:    serveHelp,
		Example: "  portolan serve --engine bundled --debug",
		Args:    noArgs,
		RunE:    func(cmd *cobra.Command, _ []string) error { return g.serve(cmd.Context(), f) },
	}
	cmd.Flags().StringVar(&f.engine, "engine", "auto", "the dockerd to use: auto, bundled, or a `PATH`")
	cmd.Flags().IntVar(&f.progressFD, "progress-fd", -1, "report the start on descriptor `N`")
	cmd.Flags().BoolVar(&f.debug, "debug", os.Getenv("PORTOLAN_DEBUG") != "", "log every flow (also: PORTOLAN_DEBUG=1)")
	cmd.Flags().IntVar(&f.lock, "lock-fd", -1, "the profile's lock, held by the process that starts this one")
	_ = cmd.Flags().MarkHidden("lock-fd") // errs only for a flag that does not exist
	return cmd
}

func (g *global) serve(ctx context.Context, f serveFlags) error {
	if err := g.onHost(); err != nil {
		return err
	}
	engine, err := engineFlag(f.engine)
	if err != nil {
		return err
	}
	o := ServeOptions{Profile: g.profile, Engine: engine, Log: g.logger(f.debug), Version: g.Version}
	var progress *os.File
	if f.progressFD >= 0 {
		if progress, err = openProgress(f.progressFD); err != nil {
			return err
		}
		o.Progress = progress
	}
	lock, err := g.serveLock(ctx, f.lock)
	if err == nil {
		err = g.Platform.Serve(ctx, o)
		lock.Release()
	}
	if err != nil && progress != nil {
		// For an up that waits; if the daemon has said so before, this is not read.
		_ = json.NewEncoder(progress).Encode(api.Step{Name: "serve", Error: err.Error()})
	}
	return err
}

func (g *global) serveLock(ctx context.Context, fd int) (*launch.Lock, error) {
	if fd >= 0 {
		return launch.Adopt(uintptr(fd), g.profile.LockFile())
	}
	ctx, cancel := context.WithTimeout(ctx, foregroundLockWait)
	defer cancel()
	return launch.Wait(ctx, g.profile.LockFile())
}

func (g *global) logger(debug bool) *slog.Logger {
	level := slog.LevelInfo
	if debug {
		level = slog.LevelDebug
	}
	return slog.New(slog.NewTextHandler(g.Err, &slog.HandlerOptions{Level: level}))
}

// openProgress takes over descriptor fd, so that no child of the daemon holds
// the pipe.
func openProgress(fd int) (*os.File, error) {
	if fd <= 2 {
		return nil, usagef("--progress-fd %d: want 3 or more", fd)
	}
	file := os.NewFile(uintptr(fd), "progress")
	if file == nil {
		return nil, usagef("--progress-fd %d: no such descriptor", fd)
	}
	if _, err := file.Stat(); err != nil {
		return nil, usagef("--progress-fd %d: %w", fd, err)
	}
	launch.CloseOnExec(file)
	return file, nil
}

// routerHelperCommand is the router helper's process; the daemon starts it.
func (g *global) routerHelperCommand() *cobra.Command {
	return &cobra.Command{
		Use:                "router-helper",
		Short:              "Hold the router's namespace (started by the daemon)",
		Hidden:             true,
		DisableFlagParsing: true,
		PersistentPreRunE:  func(*cobra.Command, []string) error { return nil }, // knows no profile
		RunE: func(cmd *cobra.Command, args []string) error {
			if g.Platform.RouterHelper == nil {
				return errors.New("run the router helper: there is none on this system")
			}
			return g.Platform.RouterHelper(cmd.Context(), args)
		},
	}
}
