package engine

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// swarmState is where dockerd keeps that it is in swarm mode, while it is
// (daemon/cluster of moby v2.0.0-beta.24).
const swarmState = "/var/lib/docker/swarm/docker-state.json"

// swarmWait bounds how long dockerd may take to read its configuration again, and
// then to enter swarm mode.
const swarmWait = 10 * time.Second

// inSwarm reports whether dockerd is in swarm mode, or will be when it starts.
func inSwarm() bool {
	_, err := os.Stat(swarmState)
	return err == nil
}

// PrepareSwarm makes dockerd take swarm mode, which excludes live-restore: that is
// off from now on, without a restart, until afterSwarm. And it makes the network
// by which tasks get out, as all of Portolan's are.
func (s *Supervisor) PrepareSwarm(ctx context.Context) error {
	s.config.Lock()
	defer s.config.Unlock()
	ctx, cancel := context.WithTimeout(ctx, swarmWait)
	defer cancel()
	s.swarmUntil = time.Now().Add(2 * swarmWait)
	if err := s.setSwarm(true); err != nil {
		return fmt.Errorf("prepare swarm mode: %w", err)
	}
	for {
		on, err := s.liveRestores(ctx)
		if err == nil && !on {
			break
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("prepare swarm mode: dockerd keeps live-restore: %w", errors.Join(err, ctx.Err()))
		case <-time.After(readySoon):
		}
	}
	if err := s.makeGateway(ctx); err != nil {
		return fmt.Errorf("prepare swarm mode: make network %s: %w", gatewayNetwork, err)
	}
	return nil
}

// afterSwarm switches live-restore on again, unless the user's options say
// otherwise: dockerd has left swarm mode, or has not entered it.
func (s *Supervisor) afterSwarm() {
	s.config.Lock()
	defer s.config.Unlock()
	if !s.Layout.Swarm || time.Now().Before(s.swarmUntil) || inSwarm() {
		return
	}
	if err := s.setSwarm(false); err != nil { // its next start has it
		s.Log.Warn("after swarm mode", "error", err)
		return
	}
	s.Log.Info("out of swarm mode: live-restore is as before")
}

// setSwarm has dockerd read a configuration for swarm mode, or the usual one.
func (s *Supervisor) setSwarm(swarm bool) error {
	s.Layout.Swarm = swarm
	if err := s.writeConfig(); err != nil {
		return err
	}
	dockerd := process{name: "dockerd", runDir: s.Layout.RuntimeDir, argv: []string{"dockerd"}}
	pid := dockerd.adopt()
	if pid == 0 {
		return errors.New("dockerd does not run")
	}
	if err := unix.Kill(pid, unix.SIGHUP); err != nil {
		return fmt.Errorf("reload dockerd: %w", err)
	}
	return nil
}

// gatewayNetwork is the bridge by which tasks on overlay networks get out, and
// published ports in. dockerd makes it when it is missing, and then masquerades:
// the router would take all tasks for the engine itself.
const gatewayNetwork = "docker_gwbridge"

// makeGateway makes it as dockerd does, but for that. It is IPv4's alone, as the
// routing mesh behind it is.
func (s *Supervisor) makeGateway(ctx context.Context) error {
	return s.ask(ctx, http.MethodPost, "/networks/create", map[string]any{
		"Name": gatewayNetwork, "Driver": "bridge", "EnableIPv4": true, "EnableIPv6": false,
		"Options": map[string]string{
			"com.docker.network.bridge.name":                 gatewayNetwork,
			"com.docker.network.bridge.enable_icc":           "false",
			"com.docker.network.bridge.enable_ip_masquerade": "false",
		},
	}, func(answer *http.Response) error {
		if answer.StatusCode == http.StatusConflict { // it is there
			return nil
		}
		return accepted(answer)
	})
}

// liveRestores asks dockerd whether live-restore is on.
func (s *Supervisor) liveRestores(ctx context.Context) (on bool, err error) {
	err = s.ask(ctx, http.MethodGet, "/info", nil, func(answer *http.Response) error {
		var info struct{ LiveRestoreEnabled bool }
		err := errors.Join(accepted(answer), json.NewDecoder(answer.Body).Decode(&info))
		on = info.LiveRestoreEnabled
		return err
	})
	return on, err
}

// ask makes one request of dockerd, with JSON unless body is nil.
func (s *Supervisor) ask(ctx context.Context, method, path string, body any, read func(*http.Response) error) error {
	client := http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", s.Layout.Socket)
		},
		DisableKeepAlives: true,
	}}
	text := []byte{}
	if body != nil {
		var err error
		if text, err = json.Marshal(body); err != nil {
			return err
		}
	}
	request, err := http.NewRequestWithContext(ctx, method, "http://engine"+path, bytes.NewReader(text))
	if err != nil {
		return err
	}
	request.Header.Set("Content-Type", "application/json")
	answer, err := client.Do(request)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	return read(answer)
}

// maxRefusal bounds what is read of the engine's reason.
const maxRefusal = 4 << 10

// accepted returns the engine's reason where it refuses.
func accepted(answer *http.Response) error {
	if answer.StatusCode < http.StatusMultipleChoices {
		return nil
	}
	text, _ := io.ReadAll(io.LimitReader(answer.Body, maxRefusal))
	return fmt.Errorf("%s: %s", answer.Status, bytes.TrimSpace(text))
}
