package machine

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"github.com/portolan-net/portolan/internal/profile"
	"github.com/portolan-net/portolan/internal/spec"
)

// Process names a process beyond doubt: a pid is used again, a pid with its
// start time is not. StartTicks is field 22 of /proc/PID/stat, in clock ticks
// since the host started.
type Process struct {
	PID        int       `json:"pid"`
	StartTicks uint64    `json:"startTicks"`
	Since      time.Time `json:"since"`
}

// Record says which processes a running machine consists of. It is kept in the
// run directory, so that a machine can be found and ended by anyone.
type Record struct {
	Version string  `json:"version"`
	Helper  Process `json:"helper"`
	Init    Process `json:"init"`
}

func recordPath(p profile.Profile) string { return filepath.Join(p.RunDir, "machine.pids") }

// LoadRecord reads the record; os.ErrNotExist when there is no machine.
func LoadRecord(p profile.Profile) (Record, error) {
	var r Record
	text, err := os.ReadFile(recordPath(p))
	if err != nil {
		return r, err
	}
	if err := json.Unmarshal(text, &r); err != nil {
		return r, fmt.Errorf("%s is damaged: %w; type: portolan down && portolan up", recordPath(p), err)
	}
	if r.Helper.PID <= 0 || r.Init.PID <= 0 {
		return Record{}, fmt.Errorf("%s is damaged: it names no processes; type: portolan down && portolan up", recordPath(p))
	}
	return r, nil
}

func saveRecord(p profile.Profile, r Record) error {
	text, err := json.Marshal(r)
	if err != nil {
		return err
	}
	return spec.WriteFile(recordPath(p), text)
}

func removeRecord(p profile.Profile) error {
	if err := os.Remove(recordPath(p)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

// identify describes a live process.
func identify(pid int) (Process, error) {
	ticks, err := startTicks(pid)
	return Process{PID: pid, StartTicks: ticks, Since: time.Now()}, err
}

// Alive reports whether exactly this process still runs; a zombie does not.
func (p Process) Alive() bool {
	if p.PID <= 0 {
		return false
	}
	ticks, err := startTicks(p.PID)
	return err == nil && ticks == p.StartTicks
}

// replaced reports whether the pid is not this process's any more. A zombie's
// still is: while PID 1 executes its second half, the kernel shows its first
// thread as one for a moment. Whether it has ended is for a pidfd to tell.
func (p Process) replaced() bool {
	ticks, err := startTicks(p.PID)
	return !errors.Is(err, errZombie) && (err != nil || ticks != p.StartTicks)
}

var errZombie = errors.New("process has ended")

// startTicks follows proc_pid_stat(5): the command name is in parentheses and
// may hold anything, so fields are counted from the last ")".
func startTicks(pid int) (uint64, error) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	end := bytes.LastIndexByte(stat, ')')
	fields := bytes.Fields(stat[end+1:])
	const state, start = 0, 19
	if end < 0 || len(fields) <= start {
		return 0, fmt.Errorf("read /proc/%d/stat: unknown format", pid)
	}
	if s := fields[state][0]; s == 'Z' || s == 'X' {
		return 0, errZombie
	}
	return strconv.ParseUint(string(fields[start]), 10, 64)
}

// The processes of a Record, as AwaitEnd names them.
const (
	HelperName = "router helper"
	InitName   = "machine"
)

// AwaitEnd returns when the helper or the machine's PID 1 has ended, and which,
// or when ctx has.
func (r Record) AwaitEnd(ctx context.Context) (string, error) {
	names := []string{HelperName, InitName}
	var poll []unix.PollFd
	for _, process := range []Process{r.Helper, r.Init} {
		fd, err := unix.PidfdOpen(process.PID, 0)
		if errors.Is(err, unix.ESRCH) {
			return names[len(poll)], nil
		}
		if err != nil {
			return "", fmt.Errorf("watch machine: %w", err)
		}
		defer unix.Close(fd)
		if process.replaced() {
			return names[len(poll)], nil
		}
		poll = append(poll, unix.PollFd{Fd: int32(fd), Events: unix.POLLIN})
	}
	wake, err := unix.Eventfd(0, unix.EFD_CLOEXEC)
	if err != nil {
		return "", fmt.Errorf("watch machine: %w", err)
	}
	defer unix.Close(wake)
	stop := context.AfterFunc(ctx, func() { _, _ = unix.Write(wake, []byte{1, 0, 0, 0, 0, 0, 0, 0}) })
	defer stop()
	poll = append(poll, unix.PollFd{Fd: int32(wake), Events: unix.POLLIN})
	for {
		if _, err := unix.Poll(poll, -1); err != nil && !errors.Is(err, unix.EINTR) {
			return "", fmt.Errorf("watch machine: %w", err)
		}
		for i, p := range poll {
			if p.Revents == 0 {
				continue
			}
			if i == len(names) {
				return "", nil
			}
			return names[i], nil
		}
	}
}
