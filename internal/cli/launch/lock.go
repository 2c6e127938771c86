package launch

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// HeldError says that another process works on the profile.
type HeldError struct {
	Path string
	PID  int // 0 when the holder has not yet written it
}

// Error names the holder, as far as it is known.
func (e *HeldError) Error() string {
	if e.PID == 0 {
		return fmt.Sprintf("lock %s: another portolan works on this profile", e.Path)
	}
	return fmt.Sprintf("lock %s: another portolan (pid %d) works on this profile", e.Path, e.PID)
}

// lockPoll is how often a held lock is tried again. flock(2) can wait by
// itself, but then no context ends the wait.
const lockPoll = 50 * time.Millisecond

// runtimeHint is what to do about a runtime directory that refuses files.
const runtimeHint = "make it writable, or set PORTOLAN_RUNTIME_DIR to another directory"

// Lock is a profile's lock, held.
type Lock struct{ file *os.File }

// Acquire takes the lock at once or returns a *HeldError. The lock's directory
// is made when it does not exist.
func Acquire(path string) (*Lock, error) {
	for {
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			return nil, fmt.Errorf("make directory for the lock: %w; %s", err, runtimeHint)
		}
		file, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
		if errors.Is(err, fs.ErrNotExist) {
			continue // a down has just removed the directory
		}
		if err != nil {
			return nil, fmt.Errorf("open lock: %w; %s", err, runtimeHint)
		}
		if err := flock(file); err != nil {
			held := &HeldError{Path: path, PID: readPID(file)}
			_ = file.Close()
			if errors.Is(err, errHeld) {
				return nil, held
			}
			return nil, fmt.Errorf("lock %s: %w", path, err)
		}
		if sameFile(file, path) {
			return own(file)
		}
		_ = file.Close() // it was removed between open and flock
	}
}

// Wait takes the lock as soon as it is free.
func Wait(ctx context.Context, path string) (*Lock, error) {
	for {
		lock, err := Acquire(path)
		if _, held := errors.AsType[*HeldError](err); !held {
			return lock, err
		}
		select {
		case <-ctx.Done():
			return nil, err
		case <-time.After(lockPoll):
		}
	}
}

// Holder says who holds the lock, and whether anybody does. It makes nothing.
func Holder(path string) (pid int, held bool) {
	file, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return 0, false
	}
	defer func() { _ = file.Close() }()
	if errors.Is(flock(file), errHeld) {
		return readPID(file), true
	}
	return 0, false
}

// Adopt takes over the lock that a parent process passed as descriptor fd, and
// becomes the process that it names.
func Adopt(fd uintptr, path string) (*Lock, error) {
	lock, err := Share(fd, path)
	if err != nil {
		return nil, err
	}
	return lock, lock.Own()
}

// Own makes this process the one that the lock names.
func (l *Lock) Own() error {
	_, err := own(l.file)
	return err
}

// Share holds the lock that a parent process passed as descriptor fd beside it;
// the lock goes on to name the parent.
func Share(fd uintptr, path string) (*Lock, error) {
	file := os.NewFile(fd, path)
	if file == nil || !sameFile(file, path) {
		return nil, fmt.Errorf("adopt lock: descriptor %d is not %s", fd, path)
	}
	if err := flock(file); err != nil {
		return nil, fmt.Errorf("adopt lock: %w", err)
	}
	CloseOnExec(file)
	return &Lock{file: file}, nil
}

// Release gives the lock up. A daemon that inherited it keeps it.
func (l *Lock) Release() { _ = l.file.Close() }

// Remove gives the lock up and removes its file, and its directory when that is
// empty then.
func (l *Lock) Remove() {
	_ = os.Remove(l.file.Name())
	_ = os.Remove(filepath.Dir(l.file.Name()))
	l.Release()
}

// RemoveFile gives the lock up and removes its file. The directory stays: a
// daemon that runs may read that one, and none that is made anew in its place.
func (l *Lock) RemoveFile() {
	_ = os.Remove(l.file.Name())
	l.Release()
}

// own writes this process's id into a locked file.
func own(file *os.File) (*Lock, error) {
	err := file.Truncate(0)
	if err == nil {
		_, err = file.WriteAt([]byte(strconv.Itoa(os.Getpid())+"\n"), 0)
	}
	if err != nil {
		_ = file.Close()
		return nil, fmt.Errorf("write lock: %w; %s", err, runtimeHint)
	}
	return &Lock{file: file}, nil
}

func readPID(file io.ReaderAt) int {
	text := make([]byte, 20)
	n, _ := file.ReadAt(text, 0)
	pid, err := strconv.Atoi(strings.TrimSpace(string(text[:n])))
	if err != nil || pid < 1 {
		return 0
	}
	return pid
}

func sameFile(file *os.File, path string) bool {
	a, errA := file.Stat()
	b, errB := os.Stat(path)
	return errA == nil && errB == nil && os.SameFile(a, b)
}
