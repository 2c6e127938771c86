package system

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"time"
)

// maxFileSize bounds what is read: the largest block lists in use as hosts files
// have some 30 MB.
const maxFileSize = 64 << 20

// watchedFile is one file as it was read last.
type watchedFile struct {
	path    string
	info    fs.FileInfo // nil: missing, or not read yet
	sum     [sha256.Size]byte
	full    bool // the last text was not empty
	problem string

	doubted bool          // empty or away since doubtAt, not yet believed
	doubtAt time.Duration // on the watcher's clock
}

// stale reports whether the path leads to something else than was read last.
func (f *watchedFile) stale() bool {
	info, err := os.Stat(f.path)
	if err != nil || f.info == nil {
		return f.info != nil || err == nil || f.doubted
	}
	return !os.SameFile(info, f.info) || info.Size() != f.info.Size() || !info.ModTime().Equal(f.info.ModTime())
}

// read returns the file's text when it differs from the last one. Problems other
// than a missing file are logged, each once, and leave the last text in force.
func (f *watchedFile) read(now time.Duration, open func(string) (*os.File, error), log *slog.Logger) (text []byte, changed bool) {
	text, info, err := readRegular(f.path, open)
	if err != nil {
		if f.problem != err.Error() {
			f.problem = err.Error()
			log.Warn("name file keeps its last content", "path", f.path, "err", err)
		}
		return nil, false
	}
	f.problem = ""
	if len(text) == 0 && f.full {
		if !f.doubted {
			f.doubted, f.doubtAt = true, now
		}
		if now-f.doubtAt < emptyGrace {
			return nil, false
		}
	}
	f.doubted, f.full, f.info = false, len(text) > 0, info
	sum := sha256.Sum256(text)
	if sum == f.sum {
		return nil, false
	}
	f.sum = sum
	return text, true
}

// readRegular reads a regular file, and nothing from a missing one. Other kinds
// are refused before they are opened: a FIFO would block.
func readRegular(path string, open func(string) (*os.File, error)) ([]byte, fs.FileInfo, error) {
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil, nil
	}
	if err != nil {
		return nil, nil, fmt.Errorf("read name file: %w", err)
	}
	if !info.Mode().IsRegular() {
		return nil, nil, fmt.Errorf("read name file %s: not a regular file", path)
	}
	file, err := open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil, nil
	}
	if err != nil {
		return nil, nil, fmt.Errorf("read name file: %w", err)
	}
	defer file.Close()
	if info, err = file.Stat(); err != nil {
		return nil, nil, fmt.Errorf("read name file: %w", err)
	}
	text, err := io.ReadAll(io.LimitReader(file, maxFileSize))
	if err != nil {
		return nil, nil, fmt.Errorf("read name file: %w", err)
	}
	return text, info, nil
}
