package engine

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// swarmState is where dockerd keeps that it is in swarm mode, while it is
// (daemon/cluster of moby v2.0.0-beta.24).
const swarmState = "/var/lib/docker/swarm/docker-state.json"

// swarmWait bounds how long dockerd may take to read its configuration again.
const swarmWait = 10 * time.Second

// inSwarm reports whether dockerd is in swarm mode, or will be when it starts.
func inSwarm() bool {
	_, err := os.Stat(swarmState)
	return err == nil
}

// PrepareSwarm makes dockerd take swarm mode, which excludes live-restore: that is
// off from now on, without a restart, and stays off as long as dockerd is in swarm
// mode. A start of the agent outside swarm mode switches it on again.
func (s *Supervisor) PrepareSwarm(ctx context.Context) error {
	s.config.Lock()
	defer s.config.Unlock()
	s.Layout.Swarm = true
	if _, err := s.writeConfig(); err != nil {
		return fmt.Errorf("prepare swarm mode: %w", err)
	}
	dockerd := process{name: "dockerd", runDir: s.Layout.RuntimeDir, argv: []string{"dockerd"}}
	pid := dockerd.adopt()
	if pid == 0 {
		return errors.New("prepare swarm mode: dockerd does not run")
	}
	if err := unix.Kill(pid, unix.SIGHUP); err != nil {
		return fmt.Errorf("prepare swarm mode: reload dockerd: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, swarmWait)
	defer cancel()
	for {
		on, err := s.liveRestores(ctx)
		if err == nil && !on {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("prepare swarm mode: dockerd keeps live-restore: %w", errors.Join(err, ctx.Err()))
		case <-time.After(readySoon):
		}
	}
}

// liveRestores asks dockerd whether live-restore is on.
func (s *Supervisor) liveRestores(ctx context.Context) (bool, error) {
	client := http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", s.Layout.Socket)
		},
		DisableKeepAlives: true,
	}}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://engine/info", http.NoBody)
	if err != nil {
		return false, err
	}
	answer, err := client.Do(request)
	if err != nil {
		return false, err
	}
	defer answer.Body.Close()
	var info struct{ LiveRestoreEnabled bool }
	err = json.NewDecoder(answer.Body).Decode(&info)
	return info.LiveRestoreEnabled, err
}
