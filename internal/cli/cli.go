// Package cli is the command line: it parses, asks the daemon through package
// client, and prints. What a command does beyond that lives elsewhere: starting
// and ending the daemon's process in cli/launch, log files in cli/logs, docker
// contexts in dockercontext, findings in doctor. Only cmd/portolan imports it.
//
// Exit codes: 0 success, 1 failure, 2 wrong usage; `portolan run` passes on the
// command's own code, 128+n when signal n ended it, 127 when it does not exist.
package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"

	"github.com/portolan-net/portolan/internal/api"
	"github.com/portolan-net/portolan/internal/profile"
)

// The exit codes of all commands but run.
const (
	exitOK      = 0
	exitFailure = 1
	exitUsage   = 2
)

// ServeOptions is what `portolan serve` was asked for.
type ServeOptions struct {
	Profile profile.Profile
	Engine  string // auto, bundled or an absolute path
	// Progress takes api.Step lines (JSON); nil when nobody listens. Serve
	// closes it after the last step.
	Progress io.WriteCloser
	Log      *slog.Logger
	Version  string // of Portolan
}

// Signal is the cause of a context that a signal ended.
type Signal struct{ os.Signal }

// Error names the signal.
func (s Signal) Error() string { return s.String() + " signal received" }

// Is makes it a cancellation like any other.
func (s Signal) Is(target error) bool { return target == context.Canceled }

// Platform is what this operating system offers to the commands. A nil field
// is something that it can't do.
type Platform struct {
	// Serve runs the daemon until ctx ends or it is told to go down, and has
	// cleaned up when it returns. The profile's lock is held meanwhile.
	Serve func(ctx context.Context, o ServeOptions) error
	// RouterHelper runs the router helper. What it needs comes through inherited
	// descriptors and args.
	RouterHelper func(ctx context.Context, args []string) error
	// Deputy runs the daemon's deputy. What it needs comes through inherited
	// descriptors.
	Deputy func(ctx context.Context) error
	// ForceDown takes down what a daemon left that did not clean up. It is
	// called with the lock held and does nothing when nothing is left.
	ForceDown func(ctx context.Context, p profile.Profile) error
	// Remains says which helper and machine run that have no daemon any more,
	// zero for none. An error means that nobody can tell.
	Remains func(p profile.Profile) (helper, machine api.Process, err error)
	// StateUnused is an error while a machine uses the profile's state, however
	// little else is known of it.
	StateUnused func(p profile.Profile) error
	// AsRoot runs this program with args, for an ordinary user as root of a new
	// user namespace, and returns what it wrote.
	AsRoot func(ctx context.Context, args ...string) ([]byte, error)
	// RemoveTree deletes a directory with all that containers wrote below it.
	RemoveTree func(ctx context.Context, dir string) error
	// ProbeOutbound opens a TCP connection to target from inside the running
	// machine and says over which way it went.
	ProbeOutbound func(ctx context.Context, p profile.Profile, target string) (string, error)
	HostAccess
	// LocateEngine says which engine a machine would use, for auto, bundled or
	// a path: a sentence for doctor.
	LocateEngine func(ctx context.Context, engine string) (string, error)
}

// Program is one invocation of portolan.
type Program struct {
	Platform   Platform
	Version    string
	Executable string   // this program, absolute: the daemon is started from it
	AdminFiles []string // in place of settings.AdminFiles; nil: those
	In         io.Reader
	Out, Err   io.Writer
}

// Main runs the command that args name and returns the exit code. Errors are
// printed.
func (p *Program) Main(ctx context.Context, args []string) int {
	root := p.root()
	root.SetArgs(args)
	root.SetIn(p.In)
	root.SetOut(p.Out)
	root.SetErr(p.Err)
	cmd, err := root.ExecuteContextC(ctx)
	var code exitError
	var usage usageError
	switch {
	case err == nil:
		return exitOK
	case errors.As(err, &code):
		if code.err != nil {
			_, _ = fmt.Fprintln(p.Err, "portolan:", code.err)
		}
		return code.code
	case errors.As(err, &usage):
		_, _ = fmt.Fprintf(p.Err, "portolan: %s\nRun '%s --help' for usage.\n", err, cmd.CommandPath())
		return exitUsage
	}
	_, _ = fmt.Fprintln(p.Err, "portolan:", err)
	return exitFailure
}

// usageError is a mistake in what was typed.
type usageError struct{ error }

// Unwrap returns the mistake.
func (e usageError) Unwrap() error { return e.error }

func usagef(format string, args ...any) error { return usageError{fmt.Errorf(format, args...)} }

// exitError ends the program with a code of its own; err is nil when all has
// been said already.
type exitError struct {
	code int
	err  error
}

func (e exitError) Error() string { return fmt.Sprintf("exit code %d: %v", e.code, e.err) }
