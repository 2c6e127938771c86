package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"syscall"

	"github.com/portolan-net/portolan/internal/agent"
	"github.com/portolan-net/portolan/internal/cli"
	"github.com/portolan-net/portolan/internal/daemon"
	"github.com/portolan-net/portolan/internal/daemon/deputy"
	"github.com/portolan-net/portolan/internal/engine"
	"github.com/portolan-net/portolan/internal/machine"
	"github.com/portolan-net/portolan/internal/profile"
)

// platform is what a Linux host can do.
func platform() cli.Platform {
	return cli.Platform{
		Serve:        serve,
		RouterHelper: routerHelper,
		Deputy:       deputy.Run,
		ForceDown:    daemon.ForceDown,
		StateUnused:  machine.CheckStateUnused,
		AsRoot:       machine.RunMapped,
		RemoveTree:   machine.RemoveTree,
		LocateEngine: locateEngine,
		HostAccess:   hostAccess(),
		Remains:      daemon.Remains,
		ProbeOutbound: func(ctx context.Context, p profile.Profile, target string) (string, error) {
			return agent.Probe(ctx, p.SharedDir(), target)
		},
	}
}

// beside finds what is installed with this program: portolan-agent in the same
// directory, the engine in engine/ below it or in ../lib/portolan/engine. For what
// is nowhere it returns the likely place.
func beside(names ...string) (string, error) {
	self, err := os.Executable()
	if err != nil {
		return "", err
	}
	self, err = filepath.EvalSymlinks(self)
	if err != nil {
		return "", err
	}
	missing := filepath.Join(filepath.Dir(self), names[0])
	for _, name := range names {
		path := filepath.Join(filepath.Dir(self), name)
		if _, err := os.Stat(path); err == nil {
			return path, nil
		}
		if _, err := os.Stat(filepath.Dir(path)); err == nil {
			missing = path // where it ought to be: a build has no lib/portolan
		}
	}
	return missing, nil
}

func serve(ctx context.Context, o cli.ServeOptions) error {
	agent, agentErr := beside("portolan-agent", "../lib/portolan/portolan-agent")
	engineDir, engineErr := beside("engine", "../lib/portolan/engine")
	if err := errors.Join(agentErr, engineErr); err != nil {
		return err
	}
	// The shim is found by the agent, which can't say so before the engine is late.
	for _, program := range []string{agent, filepath.Join(filepath.Dir(agent), "portolan-shim")} {
		if _, err := os.Stat(program); err != nil {
			return fmt.Errorf("find %s: %w; type: make build   (in Portolan's source), or install Portolan again", filepath.Base(program), err)
		}
	}
	return daemon.Run(ctx, daemon.Options{
		Profile: o.Profile, Version: o.Version, Engine: engine.Choice(o.Engine),
		EngineDir: engineDir, AgentPath: agent, Progress: o.Progress, Log: o.Log,
		Leave: func() bool {
			cause, ok := errors.AsType[cli.Signal](context.Cause(ctx))
			return ok && cause.Signal == syscall.SIGTERM
		},
	})
}

// routerHelper is started by package machine.
func routerHelper(ctx context.Context, args []string) error {
	return machine.Helper(ctx, args, slog.New(slog.NewTextHandler(os.Stderr, nil)))
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
