package logs

import (
	"context"
	"fmt"
	"os"

	"github.com/fsnotify/fsnotify"
)

// Follow calls emit for every line that is written from now on, until ctx ends.
// The directory is made when it does not exist.
func (r *Reader) Follow(ctx context.Context, emit func(Line)) error {
	if err := os.MkdirAll(r.dir, 0o700); err != nil {
		return fmt.Errorf("make log directory: %w", err)
	}
	watcher, err := fsnotify.NewWatcher()
	if err != nil {
		return fmt.Errorf("watch logs: %w", err)
	}
	defer func() { _ = watcher.Close() }()
	if err := watcher.Add(r.dir); err != nil {
		return fmt.Errorf("watch logs: %w", err)
	}
	for {
		// First of all what was written before the watch began.
		for _, f := range r.files {
			lines, err := f.more(r.path(f))
			for _, text := range lines {
				emit(Line{f.source, text})
			}
			if err != nil {
				return err
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case err := <-watcher.Errors:
			return fmt.Errorf("watch logs: %w", err)
		case <-watcher.Events:
		}
	}
}
