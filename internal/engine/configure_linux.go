package engine

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/portolan-net/portolan/internal/api"
	"github.com/portolan-net/portolan/internal/portolan"
)

// Configure gives dockerd another configuration and restarts it; with
// live-restore its containers go on. It returns when dockerd answers again. A
// configuration that dockerd does not take changes nothing.
func (s *Supervisor) Configure(ctx context.Context, mode portolan.Mode, options map[string]any) error {
	s.config.Lock()
	defer s.config.Unlock()
	layout := s.Layout
	layout.Mode, layout.Swarm = mode, inSwarm()
	if err := s.try(ctx, layout, options); err != nil {
		return err
	}
	s.Layout, s.Options = layout, options
	if err := s.writeConfig(); err != nil {
		return err
	}
	dockerd := process{name: "dockerd", runDir: s.Layout.RuntimeDir, argv: []string{"dockerd"}}
	pid := dockerd.adopt()
	if pid != 0 {
		s.asked.Store(true)
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
	if err := s.awaitAnswer(ctx); err != nil {
		return err
	}
	s.update(func(e *api.Engine) { e.Ready = true }) // watchReady may sleep for readySeldom yet
	return nil
}

// try asks dockerd itself whether it takes a configuration.
func (s *Supervisor) try(ctx context.Context, layout Layout, options map[string]any) error {
	text, err := layout.DaemonJSON(options)
	if err != nil {
		return err
	}
	path := filepath.Join(layout.RuntimeDir, "daemon.json.new")
	if err := os.WriteFile(path, text, 0o600); err != nil {
		return err
	}
	defer func() { _ = os.Remove(path) }()
	out, err := exec.CommandContext(ctx, filepath.Join(layout.BinDir, "dockerd"), "--validate", "--config-file", path).CombinedOutput()
	if err != nil {
		lines := strings.Split(string(bytes.TrimSpace(out)), "\n")
		return fmt.Errorf("dockerd does not take the options: %s", lines[len(lines)-1])
	}
	return nil
}

// awaitAnswer returns when dockerd answers.
func (s *Supervisor) awaitAnswer(ctx context.Context) error {
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
	}
	return nil
}
