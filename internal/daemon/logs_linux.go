package daemon

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// Containers make the engine write: each name that nobody resolves is a line of
// dockerd's log, for one. So logs are cut at maxLog, looked at every trimPause.
const (
	maxLog    = 16 << 20
	trimPause = 30 * time.Second
)

// trimLogs keeps the logs in dir short until ctx ends.
func trimLogs(ctx context.Context, dir string, log *slog.Logger) {
	for {
		names, _ := filepath.Glob(filepath.Join(dir, "*.log")) // errs only for a bad pattern
		for _, name := range names {
			if err := trimLog(name, maxLog); err != nil {
				log.Warn("trim log", "path", name, "err", err)
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(trimPause):
		}
	}
}

// trimLog moves the last limit bytes of a log that is longer to NAME.1. The file
// is cut, not renamed: its writers append to a descriptor that they keep. It is
// cut even where there is no room for the copy.
func trimLog(name string, limit int64) error {
	file, err := os.OpenFile(name, os.O_RDWR|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return err
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil || !info.Mode().IsRegular() || info.Size() <= limit {
		return err
	}
	copyErr := copyTail(name+".1", file, info.Size()-limit, limit)
	return errors.Join(copyErr, file.Truncate(0))
}

// copyTail replaces the file at path by a part of another.
func copyTail(path string, from io.ReaderAt, start, length int64) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	to, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(to, io.NewSectionReader(from, start, length))
	if err = errors.Join(err, to.Close()); err != nil {
		return fmt.Errorf("keep the end of a log: %w", errors.Join(err, os.Remove(path)))
	}
	return nil
}
