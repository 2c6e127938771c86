package agent

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/portolan-net/portolan/internal/agentlink"
	"github.com/portolan-net/portolan/internal/api"
	"github.com/portolan-net/portolan/internal/buildstep"
	"github.com/portolan-net/portolan/internal/datapath"
	"github.com/portolan-net/portolan/internal/engine"
	"github.com/portolan-net/portolan/internal/guest"
	"github.com/portolan-net/portolan/internal/hostnet"
	"github.com/portolan-net/portolan/internal/profile"
	"github.com/portolan-net/portolan/internal/relay"
	"github.com/portolan-net/portolan/internal/shim"
	"github.com/portolan-net/portolan/internal/spec"
)

// shimSocket is where the shims find the agent: beside the name by which the
// engine runs them.
const shimSocket = guest.AgentDir + "/shim.sock"

// Run is the agent's life: it returns when ctx ends or a part of it fails; PID
// 1 then starts it again, and the engine goes on meanwhile.
func Run(ctx context.Context, log *slog.Logger) error {
	cfg, err := spec.Load(profile.SharedMount)
	if err != nil {
		return err
	}
	if err := guest.SetupNetwork(cfg); err != nil {
		return err
	}
	if err := guest.WriteNames(cfg); err != nil {
		return err
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	proxy, err := linkProxy(self)
	if err != nil {
		return err
	}
	stepRunc, err := link(self, buildstep.Name)
	if err != nil {
		return err
	}
	daemon := agentlink.NewClient(filepath.Join(profile.SharedMount, filepath.Base(cfg.Profile.AgentSocket())), log)
	random := guest.NewRandomPorts(cfg.RandomPorts, log)
	shims := shim.NewRegistry(shim.Config{
		Daemon: daemon, Log: log, Published: random.Seen, InMesh: func(addr netip.Addr) bool { return guest.OpenMesh(addr, log) },
		Relay: func(ctx context.Context, client, container datapath.Conn, done func()) {
			relay.Start(ctx, client, container, func(relay.Stats) { done() })
		},
	})
	told := newReport(daemon)
	random.Show()
	report := func(e api.Engine) {
		if err := guest.AdmitLink(); err != nil {
			log.Warn("admit the link to the engine's networks", "err", err)
		}
		if !e.Ready { // dockerd has ended, and starts again
			random.Show()
		}
		told.setEngine(e)
	}
	supervisor := newSupervisor(cfg, proxy, stepRunc, report, log)
	if err := supervisor.Begin(ctx); err != nil {
		return err
	}
	hostNetwork, err := hostnet.New(hostnet.Config{
		Link: cfg.Link, Engine: supervisor.Layout.Socket, Report: told.setHostNetwork, Log: log.With("part", "host-network"),
	})
	if err != nil {
		return err
	}
	supervisor.Ending = hostNetwork.HangUp
	listener, err := listenShims()
	if err != nil {
		return err
	}
	forwards, err := newForwards(ctx, daemon, log)
	if err != nil {
		return err
	}
	defer forwards.listeners.Close()
	ctx, end := context.WithCancel(ctx)
	defer end()
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return shims.Serve(ctx, listener) })
	group.Go(func() error {
		daemon.Run(ctx, func(ctx context.Context) {
			var pushing sync.WaitGroup
			pushing.Go(func() { told.push(ctx) })
			pushing.Go(func() { forwards.pull(ctx) })
			shims.Sync(ctx)
			pushing.Wait()
		})
		return nil
	})
	group.Go(func() error { return supervisor.Run(ctx) })
	group.Go(func() error {
		return serveHost(ctx, profile.SharedMount, supervisor, random, log, forwards.routes, routeOutside, takeHostPorts(hostNetwork), takeSwarm(supervisor.PrepareSwarm, log), takeRenew(profile.SharedMount, end, log), takeHostRoutes(cfg.Link, log))
	})
	group.Go(func() error { return hostNetwork.Run(ctx) })
	group.Go(func() error { return hostnet.ServeDials(ctx, profile.SharedMount, log) })
	group.Go(func() error { return guest.FollowMirrors(ctx, log) })
	group.Go(func() error { return guest.FollowNames(ctx, log) })
	group.Go(func() error { return guest.WatchNetworks(ctx, told.setNetworks, log) })
	group.Go(func() error { return guest.EnlargeSegments(ctx, log) })
	return group.Wait()
}

func newSupervisor(cfg spec.Machine, proxy, stepRunc string, report func(api.Engine), log *slog.Logger) *engine.Supervisor {
	return &engine.Supervisor{
		Layout: engine.Layout{
			RuntimeDir: guest.AgentDir,
			Socket:     filepath.Join(profile.SharedMount, filepath.Base(cfg.Profile.EngineSocket())),
			Shim:       proxy,
			StepRunc:   stepRunc,
			BinDir:     cfg.EngineBin,
			Link:       cfg.Link,
			InitPath:   initPath(cfg.EngineBin),
			Rootless:   cfg.Rootless,
			Version:    cfg.EngineVersion,
			Mode:       cfg.Mode,
		},
		Options: cfg.EngineOptions,
		Good:    cfg.GoodOptions,
		LogDir:  cfg.Profile.LogDir(),
		Source:  cfg.EngineSource,
		Version: cfg.EngineVersion,
		Report:  report,
		Log:     log,
	}
}

// listenShims listens where shims find the agent, in place of an earlier one.
func listenShims() (*net.UnixListener, error) {
	if err := os.Remove(shimSocket); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	listener, err := net.ListenUnix("unixpacket", &net.UnixAddr{Name: shimSocket, Net: "unixpacket"})
	if err != nil {
		return nil, fmt.Errorf("listen to shims: %w", err)
	}
	return listener, nil
}

// linkProxy gives portolan-shim, which lies beside this binary, a place beside
// the socket.
func linkProxy(self string) (string, error) {
	shim := filepath.Join(filepath.Dir(self), "portolan-shim")
	if _, err := os.Stat(shim); err != nil {
		return "", fmt.Errorf("find portolan-shim beside portolan-agent: %w; type: make build", err)
	}
	return link(shim, "docker-proxy")
}

// link gives a program a name in the agent's directory.
func link(program, name string) (string, error) {
	path := filepath.Join(guest.AgentDir, name)
	_ = os.Remove(path) // an earlier agent's, perhaps of another version
	if err := os.Symlink(program, path); err != nil {
		return "", fmt.Errorf("link %s: %w", name, err)
	}
	return path, nil
}

// initPath finds docker-init (Debian's tini) for `docker run --init`.
func initPath(engineBin string) string {
	for _, candidate := range []string{filepath.Join(engineBin, "docker-init"), "docker-init", "tini-static", "tini"} {
		if path, err := exec.LookPath(candidate); err == nil {
			return path
		}
	}
	return ""
}
