package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"github.com/portolan-net/portolan/internal/api"
	"github.com/portolan-net/portolan/internal/cli/launch"
	"github.com/portolan-net/portolan/internal/client"
	"github.com/portolan-net/portolan/internal/dockercontext"
)

const (
	// startTime is long enough for a cold disk; a start takes a few seconds.
	startTime = 3 * time.Minute
	// statusTime bounds one question to a daemon that may hang.
	statusTime = 5 * time.Second
	statusPoll = 100 * time.Millisecond
)

const upHelp = `Starts the machine and its engine in the background, and returns when docker
commands work. When the machine runs already, nothing changes. When the start
fails, everything that was started is gone again and the reason is printed.

A docker context is made for the machine: 'portolan', or 'portolan-NAME' for
another profile. 'portolan down' removes it. It becomes docker's current context
only with --use-context. Where docker has no compose or buildx, those that were
built with Portolan are linked into docker's cli-plugins directory until 'down'.

The engine is an installed dockerd of version 28 or newer when there is one, else
the one that was built with Portolan.`

const upExample = `  portolan up
  portolan up --use-context          # from now on plain 'docker' talks to the machine
  portolan up --engine bundled       # not the dockerd that is installed here
  portolan --profile two up          # a second, fully separate machine`

// startOptions is what up and run have in common.
type startOptions struct {
	engine  string
	timeout time.Duration
}

func (o *startOptions) flags(cmd *cobra.Command) {
	cmd.Flags().StringVar(&o.engine, "engine", "auto", "the dockerd to use: auto, bundled, or a `PATH`")
	cmd.Flags().DurationVar(&o.timeout, "timeout", startTime, "how long a start may take")
}

func (g *global) upCommand() *cobra.Command {
	var o startOptions
	var useContext, noHints bool
	cmd := &cobra.Command{
		Use:     "up",
		Short:   "Start the machine",
		Long:    upHelp,
		Example: upExample,
		Args:    noArgs,
		RunE:    func(cmd *cobra.Command, _ []string) error { return g.up(cmd.Context(), o, useContext, noHints) },
	}
	o.flags(cmd)
	cmd.Flags().BoolVar(&useContext, "use-context", false, "make the machine's docker context the current one")
	cmd.Flags().BoolVar(&noHints, "no-hints", false, "leave out how to go on")
	return cmd
}

func (g *global) up(ctx context.Context, o startOptions, useContext, noHints bool) error {
	dir, err := g.checkContext(useContext)
	if err != nil {
		return err
	}
	status, daemon, err := g.start(ctx, o, g.Out)
	if err != nil {
		return err
	}
	if daemon != nil {
		_ = daemon.Process.Release() // it outlives this command
	} else if err := g.hintSSHAgent(ctx); err != nil {
		g.warnf("%v (containers may use an earlier ssh-agent)", err)
	}
	if err := g.writeContext(dir, useContext); err != nil {
		if useContext {
			return fmt.Errorf("the machine runs, but not as docker's current context: %w", err)
		}
		g.warnf("%v (the machine works without it: use eval \"$(%s)\")", err, g.command("env"))
	}
	if daemon == nil {
		g.warnOtherEngine(o.engine, status.Engine)
	}
	if g.json {
		return writeJSON(g.Out, status, "")
	}
	if daemon == nil {
		g.printf("%s is already running (pid %d, engine %s)\n", g.profile.ContextName(), status.Daemon.PID, status.Engine.Version)
	} else {
		g.printf("%s is ready (engine %s)\n", g.profile.ContextName(), status.Engine.Version)
	}
	g.problems(status)
	if noHints {
		return nil
	}
	if useContext {
		g.printf("  docker run -d -p 8080:80 nginx\n")
	} else {
		g.printf("  docker --context %s run -d -p 8080:80 nginx\n", g.profile.ContextName())
	}
	g.printf("  eval \"$(%s)\"    # this shell's docker, compose and SDKs use the machine\n", g.command("env"))
	return nil
}

// warnOtherEngine tells of an --engine that changes nothing.
func (g *global) warnOtherEngine(wanted string, runs api.Engine) {
	path, err := engineFlag(wanted)
	if err != nil || path == "auto" || path == runs.Source {
		return
	}
	g.warnf("--engine %s is left out: the machine runs with %s; to change that: %s && %s", wanted, runs.Source,
		g.command("down"), g.command("up --engine "+wanted))
}

// checkContext finds out before a start what would make it useless.
func (g *global) checkContext(use bool) (dockercontext.Dir, error) {
	dir, err := dockercontext.DefaultDir()
	if err != nil {
		return "", err
	}
	err = dir.Check(g.profile.ContextName())
	if use {
		_, currentErr := dir.Current()
		err = errors.Join(err, currentErr)
	} else if !errors.Is(err, dockercontext.ErrForeign) {
		err = nil // up warns about it later
	}
	return dir, err
}

func (g *global) writeContext(dir dockercontext.Dir, use bool) error {
	err := dir.Write(dockercontext.Context{
		Name:        g.profile.ContextName(),
		Description: "Portolan, profile " + g.profile.Name,
		Host:        g.dockerHost(),
	})
	if err == nil {
		err = g.linkPlugins(dir)
	}
	if err != nil || !use {
		return err
	}
	return dir.SetCurrent(g.profile.ContextName())
}

func (g *global) dockerHost() string { return "unix://" + g.profile.DockerSocket() }

func (g *global) problems(status api.Status) {
	for _, problem := range status.Problems {
		g.warnf("%s", problem)
	}
}

// start makes sure that a daemon runs. It returns the process when it was this
// call that started it.
func (g *global) start(ctx context.Context, o startOptions, out io.Writer) (api.Status, *exec.Cmd, error) {
	if err := g.onHost(); err != nil {
		return api.Status{}, nil, err
	}
	engine, err := engineFlag(o.engine)
	if err != nil {
		return api.Status{}, nil, err
	}
	if o.timeout <= 0 {
		return api.Status{}, nil, usagef("--timeout %s: want more than nothing", o.timeout)
	}
	ctx, cancel := context.WithTimeoutCause(ctx, o.timeout, fmt.Errorf("it is not ready after %s; see: %s", o.timeout, g.command("logs")))
	defer cancel()
	lock, status, err := g.lockOrRunning(ctx)
	if err != nil {
		return api.Status{}, nil, fmt.Errorf("start %s: %w", g.profile.ContextName(), err)
	}
	if lock == nil {
		return status, nil, nil
	}
	defer lock.Release()
	machine := g.machineLeft()
	steps := g.newProgress(out)
	daemon, err := launch.Start(ctx, launch.Command{
		Path: g.Executable,
		Args: []string{"serve", "--profile", g.profile.Name, "--engine", engine},
		// Where the directories come from is settled here, not in another directory.
		Env: []string{
			"PORTOLAN_STATE_DIR=" + filepath.Dir(g.profile.StateDir),
			"PORTOLAN_RUNTIME_DIR=" + filepath.Dir(g.profile.RunDir),
			"PORTOLAN_CONFIG_DIR=" + filepath.Dir(g.profile.ConfigDir),
		},
		Log:  g.daemonLog(),
		Lock: lock,
	}, steps.step)
	steps.end()
	if err != nil {
		return api.Status{}, nil, fmt.Errorf("start %s: %w", g.profile.ContextName(), g.afterFailure(ctx, lock, machine, err))
	}
	status, err = g.status(ctx)
	return status, daemon, err
}

// machineLeft says which machine, if any, is there for a daemon to take over.
func (g *global) machineLeft() (pid int) {
	if g.Platform.Remains == nil {
		return 0
	}
	helper, machine, err := g.Platform.Remains(g.profile)
	if err != nil || helper.PID == 0 {
		return 0
	}
	return machine.PID
}

// afterFailure takes away what a failed start left. A machine that was there
// before it is left to the next daemon.
func (g *global) afterFailure(ctx context.Context, lock *launch.Lock, machine int, err error) error {
	if machine != 0 && g.machineLeft() == machine {
		return fmt.Errorf("%w; the machine and its containers go on, try again: %s", err, g.command("up"))
	}
	var failure *launch.Failure
	if errors.As(err, &failure) && failure.Dirty && g.Platform.ForceDown != nil {
		if downErr := g.Platform.ForceDown(context.WithoutCancel(ctx), g.profile); downErr != nil {
			err = fmt.Errorf("%w; and what it left could not be taken down: %w", err, downErr)
		}
	}
	lock.Remove()
	return err
}

// lockOrRunning waits until either the lock is ours or a daemon is running.
func (g *global) lockOrRunning(ctx context.Context) (*launch.Lock, api.Status, error) {
	for told, released := false, false; ; {
		status, err := g.status(ctx)
		running := err == nil && (status.State == api.Running || status.State == api.Degraded)
		if running && status.Daemon.Version == g.Version {
			return nil, status, nil
		}
		if running && !released {
			g.warnf("version %s takes the machine over from version %s; containers go on", g.Version, status.Daemon.Version)
			if err := g.client().Release(ctx); err != nil {
				return nil, status, err
			}
			released = true
		}
		lock, lockErr := launch.Acquire(g.profile.LockFile())
		var held *launch.HeldError
		switch {
		case lockErr == nil:
			return lock, api.Status{}, nil
		case !errors.As(lockErr, &held):
			return nil, api.Status{}, lockErr
		case err != nil && !errors.Is(err, client.ErrNotRunning) && ctx.Err() == nil:
			return nil, api.Status{}, fmt.Errorf("%w; the daemon (pid %d) does not answer, end it with: %s", err, held.PID, g.command("down"))
		case !told:
			g.warnf("waiting for another portolan (pid %d) that works on this profile", held.PID)
			told = true
		}
		select {
		case <-ctx.Done():
			return nil, api.Status{}, fmt.Errorf("%w: %w", lockErr, context.Cause(ctx))
		case <-time.After(statusPoll):
		}
	}
}

// status asks the daemon, and not for long.
func (g *global) status(ctx context.Context) (api.Status, error) {
	ctx, cancel := context.WithTimeout(ctx, statusTime)
	defer cancel()
	return g.client().Status(ctx)
}

// onHost refuses where no machine can run.
func (g *global) onHost() error {
	if g.Platform.Serve == nil {
		return errors.New("start a machine: hosts are Linux today; macOS and Windows need a machine in a VM, which is planned")
	}
	return nil
}

// engineFlag checks --engine and makes a path absolute.
func engineFlag(engine string) (string, error) {
	switch engine {
	case "auto", "bundled":
		return engine, nil
	case "":
		return "", usagef("--engine is empty: want auto, bundled or the path of a dockerd")
	}
	path, err := filepath.Abs(engine)
	if err != nil {
		return "", fmt.Errorf("find engine %s: %w", engine, err)
	}
	return path, nil
}
