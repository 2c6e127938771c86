package launch

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/portolan-net/portolan/internal/api"
)

// The descriptors of a daemon that Start started.
const (
	ProgressFD = 3
	LockFD     = 4
)

// ReadyStep is the name of the last step of a start that succeeded.
const ReadyStep = "ready"

const (
	// cleanUpTime is how long a daemon may take to undo a start that did not
	// succeed. It gives dockerd 30 s to end, and unmounts its file systems.
	cleanUpTime = 40 * time.Second
	// maxLog is where daemon.log becomes daemon.log.1.
	maxLog = 10 << 20
	// maxReason is how much of the log explains a daemon that died silently, and
	// maxScan how much is looked at to find that.
	maxReason = 2 << 10
	maxScan   = 1 << 20
)

// Command is how to start a daemon.
type Command struct {
	Path string   // the portolan program
	Args []string // without the program's name, without descriptors
	Env  []string // added to this process's environment
	Log  string   // where the daemon's output goes, appended
	Lock *Lock    // passes to the daemon
}

// Failure is a start that did not succeed. The daemon's process is gone.
type Failure struct {
	Reason error
	// Dirty says that the daemon did not end by itself, so that something of
	// its machine may be left.
	Dirty bool
}

// Error is the reason alone.
func (f *Failure) Error() string { return f.Reason.Error() }

// Unwrap returns the reason.
func (f *Failure) Unwrap() error { return f.Reason }

// Start starts the keeper and with it the daemon, and calls report for each step until it is ready. Any
// error after the process began is a *Failure. The caller waits for the
// returned process, unless it ends before it.
func Start(ctx context.Context, c Command, report func(api.Step)) (*exec.Cmd, error) {
	log, logStart, err := openLog(c.Log)
	if err != nil {
		return nil, err
	}
	defer func() { _ = log.Close() }()
	progress, theirs, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("make progress pipe: %w", err)
	}
	defer func() { _ = progress.Close() }()

	// Without ctx: the daemon outlives this command.
	cmd := exec.Command(c.Path, append(c.Args, "--keep",
		fmt.Sprintf("--progress-fd=%d", ProgressFD), fmt.Sprintf("--lock-fd=%d", LockFD))...)
	cmd.Env = append(os.Environ(), c.Env...)
	cmd.Dir = "/" // holds no directory of the user's
	cmd.Stdout, cmd.Stderr = log, log
	cmd.ExtraFiles = []*os.File{theirs, c.Lock.file}
	cmd.SysProcAttr = ownSession()
	err = cmd.Start()
	_ = theirs.Close()
	if err != nil {
		return nil, fmt.Errorf("start the daemon: %w", err)
	}
	if err := follow(ctx, progress, report); err != nil {
		return nil, giveUp(ctx, cmd, c.Lock, err, func() string { return logSince(c.Log, logStart) })
	}
	return cmd, nil
}

// errSilent says that the pipe ended without a reason.
var errSilent = errors.New("the daemon ended without a reason")

// follow reads steps until ready.
func follow(ctx context.Context, progress *os.File, report func(api.Step)) error {
	stop := context.AfterFunc(ctx, func() { _ = progress.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	lines := bufio.NewScanner(progress)
	for lines.Scan() {
		var step api.Step
		if err := json.Unmarshal(lines.Bytes(), &step); err != nil {
			return fmt.Errorf("read the daemon's progress %q: %w", lines.Text(), err)
		}
		report(step)
		switch {
		case step.Error != "" && step.Name == ReadyStep:
			return errors.New(step.Error)
		case step.Error != "":
			return fmt.Errorf("%s: %s", step.Name, step.Error)
		case step.Name == ReadyStep:
			return nil
		}
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if err := lines.Err(); err != nil {
		return fmt.Errorf("read the daemon's progress: %w", err)
	}
	return errSilent
}

// giveUp makes sure that keeper and daemon are gone and says why they were not
// wanted.
func giveUp(ctx context.Context, cmd *exec.Cmd, lock *Lock, reason error, log func() string) error {
	ended := false
	if ctx.Err() == nil { // it knows itself that it failed, and cleans up
		ended = within(ctx, cleanUpTime, cmd.Process.Pid) == nil
	}
	if !ended {
		if _, err := Terminate(ctx, cmd.Process.Pid, cleanUpTime); err != nil {
			reason = errors.Join(reason, err)
		}
	}
	waitErr := cmd.Wait()
	for _, pid := range kept(lock.file.Name()) { // its keeper was killed
		if _, err := Terminate(ctx, pid, cleanUpTime); err != nil {
			reason = errors.Join(reason, err)
		}
	}
	if errors.Is(reason, errSilent) {
		reason = fmt.Errorf("the daemon ended (%w); see: portolan logs", waitErr)
		if waitErr == nil {
			reason = errors.New("the daemon ended before it was ready; see: portolan logs")
		}
		if text := log(); text != "" {
			reason = fmt.Errorf("%w; its last words:\n%s", reason, text)
		}
	}
	// 0 and 1 are how serve ends by itself; a signal or a panic is something else.
	code := cmd.ProcessState.ExitCode()
	return &Failure{Reason: reason, Dirty: code != 0 && code != 1}
}

// stateHint is what to do about a state directory that refuses files.
const stateHint = "make room there and make it writable, or set PORTOLAN_STATE_DIR to another directory"

// openLog opens the log for appending and says where the daemon's part begins.
func openLog(path string) (*os.File, int64, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, 0, fmt.Errorf("make log directory: %w; %s", err, stateHint)
	}
	if info, err := os.Stat(path); err == nil && info.Size() > maxLog {
		if err := os.Rename(path, path+".1"); err != nil {
			return nil, 0, fmt.Errorf("rotate log: %w; %s", err, stateHint)
		}
	}
	log, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return nil, 0, fmt.Errorf("open log: %w; %s", err, stateHint)
	}
	info, err := log.Stat()
	if err != nil {
		_ = log.Close()
		return nil, 0, fmt.Errorf("open log: %w; %s", err, stateHint)
	}
	return log, info.Size(), nil
}

// logSince returns what explains a death best in the log after start.
func logSince(path string, start int64) string {
	file, err := os.Open(path)
	if err != nil {
		return ""
	}
	defer func() { _ = file.Close() }()
	if info, err := file.Stat(); err == nil {
		start = max(start, info.Size()-maxScan)
	}
	text, _ := io.ReadAll(io.NewSectionReader(file, start, maxScan))
	return lastWords(string(text))
}

// lastWords is the message of a panic, without the stacks; else the last lines.
func lastWords(text string) string {
	for _, word := range []string{"panic: ", "fatal error: "} {
		at := strings.LastIndex("\n"+text, "\n"+word)
		if at < 0 {
			continue
		}
		message, _, _ := strings.Cut(text[at:], "\n\ngoroutine ")
		return message[:min(len(message), maxReason)]
	}
	text = strings.TrimSpace(text)
	if len(text) > maxReason {
		text = text[len(text)-maxReason:]
		_, text, _ = strings.Cut(text, "\n")
	}
	return text
}
