// Command portolan is Portolan's command line, its daemon (portolan serve) and
// its router helper (portolan router-helper, started by the daemon). It only
// wires: the commands are in package cli, what this system can do is in
// main_linux.go and main_other.go.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/portolan-net/portolan/internal/cli"
)

// version is stamped by -ldflags "-X main.version=...".
var version = "dev"

func main() { os.Exit(run()) }

func run() int {
	ctx, stop := notifyContext(os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	executable, err := os.Executable()
	if err != nil {
		fmt.Fprintln(os.Stderr, "portolan: find this program:", err)
		return 1
	}
	program := cli.Program{
		Platform:   platform(),
		Version:    version,
		Executable: executable,
		In:         os.Stdin,
		Out:        os.Stdout,
		Err:        os.Stderr,
	}
	return program.Main(ctx, os.Args[1:])
}

// notifyContext returns a context that a signal ends, with a cli.Signal as cause.
func notifyContext(signals ...os.Signal) (ctx context.Context, stop func()) {
	ctx, cancel := context.WithCancelCause(context.Background())
	came := make(chan os.Signal, 1)
	signal.Notify(came, signals...)
	go func() {
		select {
		case s := <-came:
			cancel(cli.Signal{Signal: s})
		case <-ctx.Done():
		}
	}()
	return ctx, func() {
		signal.Stop(came)
		cancel(nil)
	}
}
