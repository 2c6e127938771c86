package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"

	"github.com/portolan-net/portolan/internal/cli"
	"github.com/portolan-net/portolan/internal/daemon"
	"github.com/portolan-net/portolan/internal/engine"
	"github.com/portolan-net/portolan/internal/machine"
	"github.com/portolan-net/portolan/internal/profile"
)

// platform is what a Linux host can do.
func platform() cli.Platform {
	return cli.Platform{
		Serve:        serve,
		RouterHelper: routerHelper,
		ForceDown:    func(_ context.Context, p profile.Profile) error { return daemon.ForceDown(p) },
		LocateEngine: locateEngine,
	}
}

// beside finds what is installed with this program: portolan-agent in the same
// directory, the engine in engine/ below it or in ../lib/portolan/engine.
func beside(names ...string) (string, error) {
	self, err := os.Executable()
	if err != nil {
		return "", err
	}
	self, err = filepath.EvalSymlinks(self)
	if err != nil {
		return "", err
	}
	for _, name := range names {
		path := filepath.Join(filepath.Dir(self), name)
		if _, err := os.Stat(path); err == nil {
			return path, nil
		}
	}
	return filepath.Join(filepath.Dir(self), names[0]), nil
}

func serve(ctx context.Context, o cli.ServeOptions) error {
	agent, agentErr := beside("portolan-agent", "../lib/portolan/portolan-agent")
	engineDir, engineErr := beside("engine", "../lib/portolan/engine")
	if err := errors.Join(agentErr, engineErr); err != nil {
		return err
	}
	if _, err := os.Stat(agent); err != nil {
		return fmt.Errorf("find portolan-agent beside this program: %w; type: make build", err)
	}
	return daemon.Run(ctx, daemon.Options{
		Profile: o.Profile, Version: o.Version, Engine: engine.Choice(o.Engine),
		EngineDir: engineDir, AgentPath: agent, Progress: o.Progress, Log: o.Log,
	})
}

// routerHelper is started by package machine, with the report pipe as fd 3.
func routerHelper(ctx context.Context, args []string) error {
	if rest, wait := machine.WaitsForIDs(args); wait {
		return machine.AwaitIDs(rest)
	}
	if len(args) != 1 {
		return errors.New("run router helper: it is started by portolan, not by hand; type: portolan up")
	}
	const reportFD = 3
	log := slog.New(slog.NewTextHandler(os.Stderr, nil))
	return machine.RunHelper(ctx, args[0], os.NewFile(reportFD, "report"), log)
}

func locateEngine(ctx context.Context, choice string) (string, error) {
	dir, err := beside("engine", "../lib/portolan/engine")
	if err != nil {
		return "", err
	}
	found, err := engine.Find(ctx, engine.Choice(choice), dir)
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("dockerd %s in %s (%s)", found.Version, found.Dir, found.Source), nil
}
