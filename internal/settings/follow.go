package settings

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"

	"github.com/fsnotify/fsnotify"
)

// Follow calls changed after each change of the files that changes anything,
// until ctx ends. Where the system gives no more watches, it says so in the log
// and changes nothing: Reload is still there.
func (s *Store) Follow(ctx context.Context, changed func(*Snapshot), log *slog.Logger) error {
	watcher, err := fsnotify.NewWatcher()
	if err != nil {
		log.Warn("settings are not followed; after a change type: portolan settings apply", "err", err)
		<-ctx.Done()
		return nil
	}
	defer watcher.Close()
	for {
		if err := s.rewatch(watcher); err != nil {
			log.Warn("settings are not followed everywhere; after a change type: portolan settings apply", "err", err)
		}
		if next, different := s.Reload(); different {
			changed(next)
		}
		select {
		case <-ctx.Done():
			return nil
		case event, ok := <-watcher.Events:
			if !ok {
				return fmt.Errorf("follow settings: the watch ended")
			}
			log.Debug("settings directory changed", "event", event.String())
		case err := <-watcher.Errors:
			log.Warn("watch settings", "err", err) // what was missed is read above
		}
	}
}

// rewatch watches the directories in which an entry can change what the paths
// lead to, and no others.
func (s *Store) rewatch(watcher *fsnotify.Watcher) error {
	for {
		want := s.directories()
		for _, dir := range watcher.WatchList() {
			if !slices.Contains(want, dir) {
				_ = watcher.Remove(dir) // it may have gone by itself
			}
		}
		for _, dir := range want {
			if err := watcher.Add(dir); err != nil {
				return fmt.Errorf("watch %s: %w", dir, err)
			}
		}
		// A directory may have been made before its parent was watched.
		if slices.Equal(want, s.directories()) {
			return nil
		}
	}
}

func (s *Store) directories() []string {
	var dirs []string
	for _, path := range append([]string{s.files.User}, s.files.Admin...) {
		for _, p := range []string{path, resolved(path)} {
			if dir := existing(filepath.Dir(p)); !slices.Contains(dirs, dir) {
				dirs = append(dirs, dir)
			}
		}
	}
	slices.Sort(dirs)
	return dirs
}

func resolved(path string) string {
	if target, err := filepath.EvalSymlinks(path); err == nil {
		return target
	}
	return path
}

// Watched is the directory that has to be readable for a file to be followed: its
// own or, where that is not there yet, the nearest above it.
func Watched(path string) string { return existing(filepath.Dir(path)) }

// existing is dir, or the nearest directory above it that exists.
func existing(dir string) string {
	for {
		if info, err := os.Stat(dir); (err == nil && info.IsDir()) || dir == filepath.Dir(dir) {
			return dir
		}
		dir = filepath.Dir(dir)
	}
}
