package machine

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/portolan-net/portolan/internal/profile"
	"github.com/portolan-net/portolan/internal/router"
	"github.com/portolan-net/portolan/internal/spec"
)

// readyLine is what the helper writes when the machine's PID 1 goes on; any
// other line is the reason of its failure.
const readyLine = "ready"

// runHelper is the router helper's whole life. It must run in a network
// namespace of its own, reads its configuration from the profile's run directory,
// reports readyLine or the reason of a failure on ready, and returns when the
// machine has ended or somebody asked for its end. Nothing of the machine is
// left then.
func runHelper(ctx context.Context, runDir string, ready io.WriteCloser, log *slog.Logger) error {
	ctx, stop := signal.NotifyContext(ctx, unix.SIGTERM, unix.SIGINT)
	defer stop()
	signal.Ignore(unix.SIGHUP, unix.SIGPIPE)
	err := keepMachine(ctx, runDir, ready, log)
	if err != nil {
		fmt.Fprintln(ready, err)
	}
	_ = ready.Close() // closed before already on success
	return err
}

func keepMachine(ctx context.Context, runDir string, ready io.WriteCloser, log *slog.Logger) (err error) {
	cfg, err := spec.Load(runDir)
	if err != nil {
		return err
	}
	p := cfg.Profile
	lock, err := holdState(p)
	if err != nil {
		return err
	}
	defer lock.Close()
	listener, err := net.ListenUnix("unix", &net.UnixAddr{Name: p.HelperSocket(), Net: "unix"})
	if err != nil {
		return fmt.Errorf("listen on %s: %w", p.HelperSocket(), err)
	}
	defer listener.Close()
	if err := os.Chmod(p.HelperSocket(), 0o600); err != nil {
		return err
	}

	group := machineCgroup(cfg)
	defer func() { err = errors.Join(err, group.remove(), removeRecord(p)) }()
	init, release, err := startInit(cfg)
	if err != nil {
		return err
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		log.Info("machine ended", "err", init.Wait())
	}()
	defer func() {
		_ = init.Process.Kill() // it may have ended by itself
		<-ended
	}()
	if err := group.join(init.Process.Pid); err != nil {
		return err
	}
	namespace, err := router.Setup(router.Config{Link: cfg.Link}, init.Process.Pid)
	if err != nil {
		return fmt.Errorf("set up router: %w", err)
	}
	defer namespace.Close()
	if err := record(cfg, init.Process.Pid); err != nil {
		return err
	}
	if err := release(); err != nil {
		return err
	}
	if _, err := fmt.Fprintln(ready, readyLine); err != nil {
		log.Warn("report readiness", "err", err)
	}
	_ = ready.Close()

	serveCtx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() {
		<-ended
		cancel()
	}()
	return namespace.Serve(serveCtx, listener)
}

// startInit starts PID 1 of the machine in its namespaces. It waits there
// until release is called; when the helper dies before, it ends.
func startInit(cfg spec.Machine) (init *exec.Cmd, release func() error, err error) {
	gate, open, err := os.Pipe()
	if err != nil {
		return nil, nil, err
	}
	defer gate.Close()
	logFile, err := openLog(cfg.Profile, "agent")
	if err != nil {
		return nil, nil, errors.Join(err, open.Close())
	}
	defer logFile.Close()
	init = exec.Command(cfg.AgentPath, "init", cfg.Profile.SharedDir())
	init.Stdout, init.Stderr = logFile, logFile
	init.ExtraFiles = []*os.File{gate}
	init.Dir = "/"
	init.Env = environment(os.Environ())
	init.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWNET | unix.CLONE_NEWUTS | unix.CLONE_NEWIPC,
		Setsid:     true,
	}
	start := init.Start
	if cfg.Rootless {
		start = func() error { return startNested(init, cfg.Profile) }
	}
	if err := start(); err != nil {
		_ = open.Close()
		return nil, nil, fmt.Errorf("start %s: %w", cfg.AgentPath, err)
	}
	release = func() error {
		_, err := open.Write([]byte{1})
		return errors.Join(err, open.Close())
	}
	return init, release, nil
}

// openLog opens the log that `portolan logs` shows under a source's name.
func openLog(p profile.Profile, source string) (*os.File, error) {
	return os.OpenFile(filepath.Join(p.LogDir(), source+".log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
}

func record(cfg spec.Machine, initPID int) error {
	helper, err := identify(os.Getpid())
	if err != nil {
		return err
	}
	init, err := identify(initPID)
	if err != nil {
		return err
	}
	return saveRecord(cfg.Profile, Record{Version: cfg.Version, Helper: helper, Init: init})
}
