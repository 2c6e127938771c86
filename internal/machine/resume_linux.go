package machine

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/portolan-net/portolan/internal/router"
	"github.com/portolan-net/portolan/internal/spec"
)

// A helper that was killed takes its own descriptors along and nothing else:
// the machine's PID 1 goes on as a child of the host's init, the router's
// namespace lives in the daemon's descriptors. Resume starts another helper in
// these namespaces. It is not PID 1's parent, so it watches it through a pidfd.
//
//	          helper dies             daemon dies            both die
//	helper    Resume                  stays                  the next daemon clears what
//	daemon    stays, flows go on      the next one attaches  is left, and starts anew
//	PID 1     stays                   stays                  is killed

// resumeWord makes the process of HelperCommand the helper of a machine that
// runs. Its configuration comes on standard input: from the deputy, which had it
// before the daemon met a packet, and from no file that somebody may have changed.
const resumeWord = "resume"

// What the process of resumeWord is given after the report.
const (
	estateFD     = reportFD + 1 // slow0 and the listeners
	namespacesFD = estateFD + 5 // network, user
)

// Resume starts a helper in place of the one of r, which has died, and returns
// when it hands out descriptors. On an error nothing has changed.
func Resume(ctx context.Context, cfg spec.Machine, r Record, estate *router.Estate) (Record, error) {
	if !r.Init.Alive() {
		return r, errors.New("start router helper again: the machine has ended")
	}
	self, err := os.Executable()
	if err != nil {
		return r, err
	}
	enter, err := exec.LookPath("nsenter")
	if err != nil {
		return r, errors.New("start router helper again: nsenter is not on PATH; as root, type: apt-get install util-linux")
	}
	logFile, err := openLog(cfg.Profile, "helper")
	if err != nil {
		return r, err
	}
	defer logFile.Close()
	text, err := json.Marshal(cfg)
	if err != nil {
		return r, err
	}
	report, ready, err := os.Pipe()
	if err != nil {
		return r, err
	}
	defer report.Close()

	// Only a process of one thread may enter a user namespace, so no Go program.
	args := []string{fmt.Sprintf("--net=/proc/self/fd/%d", namespacesFD)}
	if cfg.Rootless {
		args = append(args, fmt.Sprintf("--user=/proc/self/fd/%d", namespacesFD+1), "--preserve-credentials")
	}
	helper := exec.Command(enter, append(args, "--", self, HelperCommand, resumeWord)...)
	helper.Stdin = bytes.NewReader(text)
	helper.Stderr = logFile
	helper.Dir = "/"
	helper.ExtraFiles = append(append([]*os.File{ready}, estate.Router...), estate.Network, estate.User)
	helper.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	err = helper.Start()
	_ = ready.Close()
	if err != nil {
		return r, fmt.Errorf("start router helper again: %w", err)
	}
	go func() { _ = helper.Wait() }() // reaped whenever it ends; it may outlive this process
	if err := awaitReady(ctx, report); err != nil {
		_ = helper.Process.Kill() // a SIGTERM would end the machine
		return r, errors.Join(fmt.Errorf("start router helper again: %w", err), waitGone(Process{PID: helper.Process.Pid}, stopWait))
	}
	return LoadRecord(cfg.Profile)
}

// runResumed is such a helper's whole life: from its report on, that of every
// helper.
func runResumed(ctx context.Context, config io.Reader, ready io.WriteCloser, log *slog.Logger) error {
	ctx, stop := signal.NotifyContext(ctx, unix.SIGTERM, unix.SIGINT)
	defer stop()
	signal.Ignore(unix.SIGHUP, unix.SIGPIPE)
	err := resumeMachine(ctx, config, ready, log)
	if err != nil {
		fmt.Fprintln(ready, err)
	}
	_ = ready.Close() // closed before already on success
	return err
}

func resumeMachine(ctx context.Context, config io.Reader, ready io.WriteCloser, log *slog.Logger) (err error) {
	for i := range 2 {
		_ = unix.Close(namespacesFD + i) // this process is in them
	}
	var cfg spec.Machine
	if err := json.NewDecoder(config).Decode(&cfg); err != nil {
		return fmt.Errorf("read machine configuration: %w", err)
	}
	p := cfg.Profile
	lock, err := holdState(p)
	if err != nil {
		return err
	}
	defer lock.Close()
	r, err := LoadRecord(p)
	if err != nil {
		return err
	}
	namespace, err := router.Resume(estateFD, r.Init.PID)
	if err != nil {
		return err
	}
	defer namespace.Close()
	if r.Helper, err = identify(os.Getpid()); err != nil {
		return err
	}
	if err := os.Remove(p.HelperSocket()); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	listener, err := net.ListenUnix("unix", &net.UnixAddr{Name: p.HelperSocket(), Net: "unix"})
	if err != nil {
		return fmt.Errorf("listen on %s: %w", p.HelperSocket(), err)
	}
	defer listener.Close()
	if err := os.Chmod(p.HelperSocket(), 0o600); err != nil {
		return err
	}
	if err := saveRecord(p, r); err != nil {
		return err
	}
	if _, err := fmt.Fprintln(ready, readyLine); err != nil {
		log.Warn("report readiness", "err", err)
	}
	_ = ready.Close()

	defer func() { err = errors.Join(err, killInit(r.Init), machineCgroup(cfg).remove(), removeRecord(p)) }()
	serveCtx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() {
		defer cancel()
		ended, err := r.AwaitEnd(serveCtx)
		if ended != "" || err != nil {
			log.Info("machine ended", "ended", ended, "err", err)
		}
	}()
	return namespace.Serve(serveCtx, listener)
}

// killInit ends a PID 1 that is not this process's child, and with it the
// machine. It returns when it is gone.
func killInit(init Process) error {
	fd, err := unix.PidfdOpen(init.PID, 0)
	if err != nil || !init.Alive() {
		return nil
	}
	defer unix.Close(fd)
	if err := unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("kill machine: %w", err)
	}
	return waitGone(init, stopWait)
}
