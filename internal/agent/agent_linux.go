package agent

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"

	"golang.org/x/sync/errgroup"

	"github.com/portolan-net/portolan/internal/api"
	"github.com/portolan-net/portolan/internal/engine"
	"github.com/portolan-net/portolan/internal/guest"
	"github.com/portolan-net/portolan/internal/profile"
	"github.com/portolan-net/portolan/internal/spec"
)

// ProxyName is the name by which the engine runs this binary for a port.
const ProxyName = "docker-proxy"

// ShimSocket is where the shims find the agent.
const ShimSocket = guest.AgentDir + "/shim.sock"

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
	proxy, err := linkProxy()
	if err != nil {
		return err
	}
	group, ctx := errgroup.WithContext(ctx)
	supervisor := &engine.Supervisor{
		Layout: engine.Layout{
			RuntimeDir: guest.AgentDir,
			Socket:     filepath.Join(profile.SharedMount, filepath.Base(cfg.Profile.EngineSocket())),
			Shim:       proxy,
			BinDir:     cfg.EngineBin,
			Link:       cfg.Link,
			InitPath:   initPath(cfg.EngineBin),
		},
		Options: cfg.EngineOptions,
		LogDir:  cfg.Profile.LogDir(),
		Source:  cfg.EngineSource,
		Version: cfg.EngineVersion,
		Report:  func(api.Engine) {},
		Log:     log,
	}
	group.Go(func() error { return supervisor.Run(ctx) })
	group.Go(func() error { return serveShutdown(ctx, profile.SharedMount, supervisor.Shutdown, log) })
	group.Go(func() error { return guest.FollowMirrors(ctx, log) })
	group.Go(func() error { return guest.FollowNames(ctx, log) })
	group.Go(func() error { return guest.WatchNetworks(ctx, func([]netip.Prefix) {}, log) })
	return group.Wait()
}

// linkProxy gives this binary the name that the engine runs.
func linkProxy() (string, error) {
	self, err := os.Executable()
	if err != nil {
		return "", err
	}
	path := filepath.Join(guest.AgentDir, ProxyName)
	_ = os.Remove(path) // an earlier agent's, perhaps of another version
	if err := os.Symlink(self, path); err != nil {
		return "", fmt.Errorf("link userland proxy: %w", err)
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
