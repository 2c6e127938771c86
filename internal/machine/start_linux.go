package machine

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/portolan-net/portolan/internal/profile"
	"github.com/portolan-net/portolan/internal/router"
	"github.com/portolan-net/portolan/internal/spec"
)

// HelperCommand is the hidden command of portolan that runs Helper.
const HelperCommand = "router-helper"

// Start makes the machine that cfg describes and returns when its PID 1 runs
// and the helper hands out descriptors. On an error nothing is left. Machines
// outlive the caller.
func Start(ctx context.Context, cfg spec.Machine) (Record, error) {
	if err := spec.Write(cfg); err != nil {
		return Record{}, err
	}
	if err := os.Remove(cfg.Profile.HelperSocket()); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return Record{}, err
	}
	self, err := os.Executable()
	if err != nil {
		return Record{}, err
	}
	logFile, err := openLog(cfg.Profile, "helper")
	if err != nil {
		return Record{}, err
	}
	defer logFile.Close()
	report, ready, err := os.Pipe()
	if err != nil {
		return Record{}, err
	}
	defer report.Close()

	helper := exec.Command(self, HelperCommand, cfg.Profile.RunDir)
	helper.Stderr = logFile
	helper.Dir = "/"
	err = startMapped(helper, ready, unix.CLONE_NEWNET)
	_ = ready.Close()
	if helper.Process != nil {
		go func() { _ = helper.Wait() }() // reaped whenever it ends; it may outlive this process
	}
	if err != nil {
		return Record{}, fmt.Errorf("start router helper: %w", err)
	}
	if err := awaitReady(ctx, report); err != nil {
		if cfg.Rootless {
			err = withNamespaceHint(err)
		}
		_ = helper.Process.Signal(unix.SIGTERM)
		return Record{}, errors.Join(err, waitGone(Process{PID: helper.Process.Pid}, stopWait))
	}
	return LoadRecord(cfg.Profile)
}

// awaitReady reads the helper's report: one line, or the end of the pipe.
func awaitReady(ctx context.Context, report *os.File) error {
	stop := context.AfterFunc(ctx, func() { _ = report.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	line, err := bufio.NewReader(report).ReadString('\n')
	line = strings.TrimSpace(line)
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case line == readyLine:
		return nil
	case line != "":
		return errors.New(line)
	}
	return fmt.Errorf("router helper ended without a word (%w): see helper.log", err)
}

// stopWait bounds how long a helper may take to end a machine.
const stopWait = 10 * time.Second

// Stop ends the profile's machine through its helper, or by force when the
// helper is gone or does not answer. It returns nil when there was none.
func Stop(p profile.Profile) error {
	r, err := LoadRecord(p)
	if errors.Is(err, fs.ErrNotExist) {
		return stopLost(p)
	}
	if err != nil {
		return stopUnrecorded(p, err)
	}
	if r.Helper.Alive() {
		if err := router.Stop(p.HelperSocket()); err == nil && waitGone(r.Helper, stopWait) == nil {
			return nil
		}
	}
	return ForceDown(p, r)
}

// stopUnrecorded ends a machine whose record can't be read, because of damage:
// its helper knows enough. Nobody knows what is left of one without a helper
// that keeps the state directory locked, so that is an error.
func stopUnrecorded(p profile.Profile, damage error) error {
	_ = router.Stop(p.HelperSocket()) // a helper that is gone holds no lock either
	for deadline := time.Now().Add(stopWait); ; time.Sleep(lockPoll) {
		lock, err := lockState(p)
		if err == nil {
			defer lock.Close()
			return removeTraces(p)
		}
		if time.Now().After(deadline) {
			return errors.Join(damage, err)
		}
	}
}

// lockPoll is how often the lock of a machine that ends is tried.
const lockPoll = 50 * time.Millisecond

// ForceDown kills what is left of a machine and removes its traces.
func ForceDown(p profile.Profile, r Record) error {
	for _, process := range []Process{r.Init, r.Helper} {
		if process.Alive() {
			if err := unix.Kill(process.PID, unix.SIGKILL); err != nil && !errors.Is(err, unix.ESRCH) {
				return fmt.Errorf("kill process %d: %w", process.PID, err)
			}
		}
		if err := waitGone(process, stopWait); err != nil {
			return err
		}
	}
	return removeTraces(p)
}

// removeTraces removes what a machine without processes left on the host.
func removeTraces(p profile.Profile) error {
	err := errors.Join(machineCgroup(spec.Machine{Profile: p, Rootless: os.Geteuid() != 0}).remove(), removeRecord(p))
	if rmErr := os.Remove(p.HelperSocket()); rmErr != nil && !errors.Is(rmErr, fs.ErrNotExist) {
		err = errors.Join(err, rmErr)
	}
	return err
}

// waitGone returns once the process has ended.
func waitGone(p Process, limit time.Duration) error {
	fd, err := unix.PidfdOpen(p.PID, 0)
	if errors.Is(err, unix.ESRCH) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("watch process %d: %w", p.PID, err)
	}
	defer unix.Close(fd)
	if p.StartTicks != 0 && !p.Alive() {
		return nil
	}
	deadline := time.Now().Add(limit)
	poll := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
	for {
		n, err := unix.Poll(poll, int(max(time.Until(deadline), 0).Milliseconds()))
		switch {
		case n > 0:
			return nil
		case err != nil && !errors.Is(err, unix.EINTR):
			return fmt.Errorf("wait for process %d: %w", p.PID, err)
		case time.Now().After(deadline):
			return fmt.Errorf("wait for process %d: still there after %s", p.PID, limit)
		}
	}
}
