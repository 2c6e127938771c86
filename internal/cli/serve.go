package cli

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"os"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/portolan-net/portolan/internal/api"
	"github.com/portolan-net/portolan/internal/cli/launch"
)

const serveHelp = `Runs the daemon in the foreground: what 'portolan up' starts in the background.
For service managers and for looking closely. 'portolan down' and Ctrl-C end it
and take the machine down. On SIGTERM, or when it is killed, the machine and its
containers go on; the next daemon takes them over: a daemon of 'portolan up' is
started again by itself. No docker context is made.

With --progress-fd the start is reported on that descriptor as JSON lines, the
last of which has the name "ready" or an error.`

// foregroundLockWait covers a lock that a status or an ending daemon holds for
// a moment.
const foregroundLockWait = time.Second

type serveFlags struct {
	engine           string
	progressFD, lock int
	debug            bool
	keep, kept       bool
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
	cmd.Flags().BoolVar(&f.keep, "keep", false, "run the daemon as a child, and again when it dies")
	cmd.Flags().BoolVar(&f.kept, strings.TrimPrefix(launch.KeptFlag, "--"), false, "the daemon of a keeper")
	for _, internal := range []string{"lock-fd", "keep", strings.TrimPrefix(launch.KeptFlag, "--")} {
		_ = cmd.Flags().MarkHidden(internal) // errs only for a flag that does not exist
	}
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
	lock, err := g.serveLock(ctx, f)
	switch {
	case err != nil:
	case f.keep && progress != nil:
		defer lock.Release()
		return g.keepServing(ctx, f, lock, progress)
	default:
		if f.kept {
			go ownWithoutKeeper(lock, o.Log) // ends with the process
		}
		err = g.Platform.Serve(ctx, o)
		lock.Release()
		if cause, signalled := errors.AsType[Signal](context.Cause(ctx)); err == nil && f.kept && signalled && cause.Signal == syscall.SIGTERM {
			return exitError{code: exitSignal + int(syscall.SIGTERM)} // the keeper starts another
		}
	}
	if err != nil && progress != nil {
		// For an up that waits; if the daemon has said so before, this is not read.
		_ = json.NewEncoder(progress).Encode(api.Step{Name: "serve", Error: err.Error()})
	}
	return err
}

func (g *global) serveLock(ctx context.Context, f serveFlags) (*launch.Lock, error) {
	switch {
	case f.lock >= 0 && f.kept:
		return launch.Share(uintptr(f.lock), g.profile.LockFile())
	case f.lock >= 0:
		return launch.Adopt(uintptr(f.lock), g.profile.LockFile())
	}
	ctx, cancel := context.WithTimeout(ctx, foregroundLockWait)
	defer cancel()
	return launch.Wait(ctx, g.profile.LockFile())
}

// keepServing is the keeper's life.
func (g *global) keepServing(ctx context.Context, f serveFlags, lock *launch.Lock, progress *os.File) error {
	args := []string{"serve", "--profile", g.profile.Name, "--engine", f.engine}
	if f.debug {
		args = append(args, "--debug")
	}
	code := launch.Keep(ctx, launch.Command{Path: g.Executable, Args: args, Lock: lock}, progress, g.logger(false))
	if code != 0 {
		return exitError{code: code}
	}
	return nil
}

// ownWithoutKeeper makes the lock name this daemon when its keeper dies.
func ownWithoutKeeper(lock *launch.Lock, log *slog.Logger) {
	_, _ = os.Stdin.Read(make([]byte, 1)) // the keeper never writes
	log.Warn("keeper ended; nobody starts this daemon again when it dies, until the next portolan up")
	if err := lock.Own(); err != nil {
		log.Warn("take over lock", "err", err)
	}
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

// deputyCommand is the deputy's process; the daemon starts it.
func (g *global) deputyCommand() *cobra.Command {
	return &cobra.Command{
		Use:               "deputy",
		Short:             "Do what a confined daemon may not (started by the daemon)",
		Hidden:            true,
		Args:              noArgs,
		PersistentPreRunE: func(*cobra.Command, []string) error { return nil }, // knows no profile
		RunE: func(cmd *cobra.Command, _ []string) error {
			if g.Platform.Deputy == nil {
				return errors.New("run the deputy: there is none on this system")
			}
			return g.Platform.Deputy(cmd.Context())
		},
	}
}
