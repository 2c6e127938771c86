// Command portolan-agent is Portolan inside the machine. It is not meant to be
// typed: the router helper runs `init`, PID 1 runs `serve`, and BuildKit its link
// build-runc.
package main

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/portolan-net/portolan/internal/agent"
	"github.com/portolan-net/portolan/internal/buildstep"
	"github.com/portolan-net/portolan/internal/guest"
	"github.com/portolan-net/portolan/internal/profile"
	"github.com/portolan-net/portolan/internal/spec"
	"github.com/portolan-net/portolan/internal/system"
)

func main() {
	log := slog.New(slog.NewTextHandler(os.Stderr, nil))
	if err := run(os.Args[1:], log); err != nil {
		fmt.Fprintln(os.Stderr, "portolan-agent:", err)
		os.Exit(1)
	}
}

func run(args []string, log *slog.Logger) error {
	switch {
	case filepath.Base(os.Args[0]) == buildstep.Name:
		return runStep(args)
	case len(args) == 2 && args[0] == "init":
		return guest.Prepare(args[1])
	case len(args) == 1 && args[0] == "reap":
		self, err := os.Executable()
		if err != nil {
			return err
		}
		return guest.Reap(self, log)
	case len(args) == 1 && args[0] == "serve":
		ctx, stop := signal.NotifyContext(context.Background(), unix.SIGTERM, unix.SIGINT)
		defer stop()
		return agent.Run(ctx, log)
	}
	return fmt.Errorf("arguments %q: this program is started by portolan, not by hand; type: portolan up", args)
}

// runStep is runc for BuildKit.
func runStep(args []string) error {
	cfg, err := spec.Load(profile.SharedMount)
	if err != nil {
		return err
	}
	certificates := ""
	if cfg.BuildCertificates {
		certificates = system.CertificateBundle()
	}
	return buildstep.Run(args, certificates)
}
