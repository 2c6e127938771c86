package engine

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/portolan-net/portolan/internal/api"
	"github.com/portolan-net/portolan/internal/portolan"
)

// Configure gives dockerd another configuration and restarts it; with
// live-restore its containers go on. It returns when dockerd answers again. A
// configuration that dockerd does not take changes nothing; one with which it does
// not start is taken back.
func (s *Supervisor) Configure(ctx context.Context, mode portolan.Mode, options map[string]any) error {
	s.config.Lock()
	defer s.config.Unlock()
	layout := s.Layout
	layout.Mode, layout.Swarm = mode, inSwarm()
	if err := s.try(ctx, layout, options); err != nil {
		return err
	}
	before, optionsBefore := s.Layout, s.Options
	s.Layout, s.Options = layout, options
	err := s.restart(ctx)
	if errors.Is(err, errNoStart) {
		s.Layout, s.Options = before, optionsBefore
		err = errors.Join(err, s.restart(ctx))
	}
	if err != nil {
		return err
	}
	s.update(func(e *api.Engine) { e.Ready, e.Refused = true, "" }) // watchReady may sleep for readySeldom yet
	return nil
}

// Check says why dockerd would not take a configuration. Nothing changes.
func (s *Supervisor) Check(ctx context.Context, mode portolan.Mode, options map[string]any) error {
	s.config.Lock()
	defer s.config.Unlock()
	layout := s.Layout
	layout.Mode, layout.Swarm = mode, inSwarm()
	return s.try(ctx, layout, options)
}

// restart ends dockerd, which keep starts again, and returns when it answers.
func (s *Supervisor) restart(ctx context.Context) error {
	if err := s.writeConfig(); err != nil {
		return err
	}
	dockerd := process{name: "dockerd", runDir: s.Layout.RuntimeDir, argv: []string{"dockerd"}}
	pid := dockerd.adopt()
	if pid != 0 {
		s.asked.Store(true)
		if s.Ending != nil {
			s.Ending()
		}
		if err := unix.Kill(pid, unix.SIGTERM); err != nil {
			s.asked.Store(false) // it has ended by itself, and is started again anyway
			if !errors.Is(err, unix.ESRCH) {
				return fmt.Errorf("restart dockerd: %w", err)
			}
		}
		if err := awaitExit(ctx, pid); err != nil {
			return fmt.Errorf("restart dockerd: %w", err)
		}
	}
	return s.awaitAnswer(ctx)
}

// try asks dockerd itself whether it takes a configuration.
func (s *Supervisor) try(ctx context.Context, layout Layout, options map[string]any) error {
	text, err := layout.DaemonJSON(options)
	if err != nil {
		return err
	}
	return validate(ctx, filepath.Join(layout.BinDir, "dockerd"), layout.RuntimeDir, text)
}

// errNoStart says that dockerd ends again and again.
var errNoStart = errors.New("dockerd does not start with the options; those of before are in force")

// maxFailures is how often dockerd may end in a row before it first answers: the
// first time may be somebody else's doing.
const maxFailures = 2

// awaitAnswer returns when dockerd answers, or has ended maxFailures times.
func (s *Supervisor) awaitAnswer(ctx context.Context) error {
	failures := s.failures.Load()
	client := http.Client{Timeout: pingTimeout, Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", s.Layout.Socket)
		},
		DisableKeepAlives: true,
	}}
	for !ping(ctx, &client) {
		select {
		case <-ctx.Done():
			return fmt.Errorf("restart dockerd: no answer yet: %w", ctx.Err())
		case <-time.After(readySoon):
		}
		if s.failures.Load() >= failures+maxFailures {
			return fmt.Errorf("%w; it says: %s", errNoStart, LastLine(s.dockerdLog()))
		}
	}
	return nil
}
