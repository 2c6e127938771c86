package cli

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/portolan-net/portolan/internal/dockercontext"
)

// What shells say about a command that they can't run.
const (
	exitNotExecutable = 126
	exitNotFound      = 127
	exitSignal        = 128
)

const runHelp = `Starts the machine, runs the command with DOCKER_HOST set to it (and with the
docker that was built with Portolan on PATH where there is no other), and stops
the machine. A machine that ran before keeps running. Made for CI.
PORTOLAN_PROFILE is set too, so that 'portolan' in the command means the same
machine. Images, volumes and logs stay for the next time, unless --purge deletes
them.

The exit code is the command's, 128+n when signal n ended it, 127 when it does
not exist and 126 when it can't be executed. When the machine can't be started or
stopped, it is 1.`

const runExample = `  portolan run -- docker run --rm hello-world
  portolan run -- make integration-tests
  portolan --profile job-$CI_JOB_ID run --purge -- ./test.sh`

func (g *global) runCommand() *cobra.Command {
	var o startOptions
	var purge bool
	cmd := &cobra.Command{
		Use:     "run [flags] -- COMMAND [ARG...]",
		Short:   "Run a command with a machine of its own around it",
		Long:    runHelp,
		Example: runExample,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) == 0 {
				return usagef("run what? want: portolan run -- COMMAND")
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error { return g.run(cmd.Context(), o, purge, args) },
	}
	o.flags(cmd)
	cmd.Flags().BoolVar(&purge, "purge", false, "afterwards also delete the profile's images, volumes, containers and logs")
	cmd.Flags().SetInterspersed(false)
	return cmd
}

func (g *global) run(ctx context.Context, o startOptions, purge bool, args []string) error {
	// The progress goes where errors go: the output is the command's.
	_, daemon, err := g.start(ctx, o, g.Err)
	if err != nil {
		return err
	}
	dir, err := dockercontext.DefaultDir()
	if err == nil {
		err = g.linkPlugins(dir)
	}
	if err != nil {
		g.warnf("%v; docker compose and docker buildx may be missing", err)
	}
	code, err := g.execute(ctx, args)
	if daemon == nil {
		if purge {
			g.warnf("nothing is deleted: the machine ran before, and goes on")
		}
		return exitError{code: code, err: err}
	}
	if unlinkErr := g.unlinkPlugins(dir); unlinkErr != nil {
		g.warnf("%v", unlinkErr)
	}
	// What ended the command must not end the cleaning up.
	_, downErr := g.stop(context.WithoutCancel(ctx), purge)
	_ = daemon.Wait() // its end was waited for; this reaps it
	if downErr != nil {
		return errors.Join(err, fmt.Errorf("stop %s: %w", g.profile.ContextName(), downErr))
	}
	return exitError{code: code, err: err}
}

// execute runs the command and returns its exit code. Signals go to it: it
// decides when to end, we end after it.
func (g *global) execute(ctx context.Context, args []string) (int, error) {
	if ctx.Err() != nil {
		return exitSignal + int(syscall.SIGINT), nil
	}
	if dir := g.engineDirWithDocker(); dir != "" {
		if err := os.Setenv("PATH", dir+string(os.PathListSeparator)+os.Getenv("PATH")); err != nil {
			return exitFailure, fmt.Errorf("set PATH: %w", err)
		}
	}
	// Without ctx: signals are passed on, see below.
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Env = append(os.Environ(), "DOCKER_HOST="+g.dockerHost(), "PORTOLAN_PROFILE="+g.profile.Name)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = g.In, g.Out, g.Err

	signals := make(chan os.Signal, 8)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	defer signal.Stop(signals)
	if err := cmd.Start(); err != nil {
		code := exitNotExecutable
		if errors.Is(err, exec.ErrNotFound) || errors.Is(err, fs.ErrNotExist) {
			code = exitNotFound
		}
		return code, fmt.Errorf("run %s: %w", args[0], err)
	}
	ended, forwarded := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(forwarded)
		forward(signals, ended, cmd.Process, isTerminal(g.In))
	}()
	err := cmd.Wait()
	close(ended)
	<-forwarded
	return exitCode(cmd.ProcessState, err)
}

// forward passes signals on until ended. Ctrl-C on a terminal reaches the
// command by itself, and twice means something else to many programs.
func forward(signals <-chan os.Signal, ended <-chan struct{}, to *os.Process, terminal bool) {
	for {
		select {
		case <-ended:
			return
		case s := <-signals:
			if s != os.Interrupt || !terminal {
				_ = to.Signal(s) // it may have ended
			}
		}
	}
}

// exitCode is what a shell's $? would be.
func exitCode(state *os.ProcessState, err error) (int, error) {
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		return exitFailure, fmt.Errorf("wait for the command: %w", err)
	}
	if status, ok := state.Sys().(syscall.WaitStatus); ok && status.Signaled() {
		return exitSignal + int(status.Signal()), nil
	}
	return state.ExitCode(), nil
}
