package guest

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"

	"github.com/fsnotify/fsnotify"
	"golang.org/x/sys/unix"
)

// originals holds the host's own directory behind each mirror.
const originals = "/run/.host"

// original is where the host's dir can still be reached after mirror(dir).
func original(dir string) string { return filepath.Join(originals, dir) }

// mirror replaces dir by a tmpfs that shows the host's entries, except own.
// /run must be mirrored first, since it holds the originals of the others.
func mirror(dir string, own map[string]bool) error {
	// A detached copy, made first: a copy made later would hold the tmpfs too.
	host, err := unix.OpenTree(unix.AT_FDCWD, dir, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_RECURSIVE)
	if err != nil {
		return fmt.Errorf("copy mounts of %s: %w", dir, err)
	}
	defer unix.Close(host)
	if err := unix.Mount("tmpfs", dir, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=0755"); err != nil {
		return fmt.Errorf("mount tmpfs on %s: %w", dir, err)
	}
	kept := original(dir)
	if err := os.MkdirAll(kept, 0o755); err != nil {
		return err
	}
	if err := unix.MoveMount(host, "", unix.AT_FDCWD, kept, unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
		return fmt.Errorf("mount %s: %w", kept, err)
	}
	entries, err := os.ReadDir(kept)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if err := show(dir, e.Name(), own); err != nil {
			return err
		}
	}
	return nil
}

// show makes one entry of the host's dir visible in its mirror.
func show(dir, name string, own map[string]bool) error {
	source, target := filepath.Join(original(dir), name), filepath.Join(dir, name)
	if own[name] {
		return nil
	}
	info, err := os.Lstat(source)
	if errors.Is(err, fs.ErrNotExist) {
		return nil // gone again
	}
	if err != nil {
		return err
	}
	if !info.IsDir() {
		err = os.Symlink(source, target)
	} else if err = os.Mkdir(target, 0o755); err == nil {
		err = bind(source, target)
	}
	if errors.Is(err, fs.ErrExist) {
		return nil
	}
	return err
}

// drop takes an entry that the host removed out of the mirror.
func drop(dir, name string, own map[string]bool) {
	if own[name] {
		return
	}
	target := filepath.Join(dir, name)
	_ = unix.Unmount(target, unix.MNT_DETACH) // a link is no mount
	_ = os.Remove(target)
}

// catchUp makes the mirror of dir true to what happened while nobody followed.
func catchUp(dir string, own map[string]bool) error {
	shown, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range shown {
		if stale(dir, e.Name()) {
			drop(dir, e.Name(), own)
		}
	}
	entries, err := os.ReadDir(original(dir))
	if err != nil {
		return err
	}
	for _, e := range entries {
		if err := show(dir, e.Name(), own); err != nil {
			return err
		}
	}
	return nil
}

// stale reports an entry of a mirror whose original has gone, or is something
// else now. What the machine itself put there never is.
func stale(dir, name string) bool {
	source, target := filepath.Join(original(dir), name), filepath.Join(dir, name)
	if leads, err := os.Readlink(target); err == nil {
		info, err := os.Lstat(source)
		return leads == source && (err != nil || info.IsDir())
	}
	var shown unix.Stat_t
	return unix.Stat(target, &shown) == nil && shown.Mode&unix.S_IFMT == unix.S_IFDIR && shown.Nlink == 0
}

// FollowMirrors keeps the mirrors made by setupMounts true until ctx ends.
func FollowMirrors(ctx context.Context, log *slog.Logger) error {
	watcher, err := fsnotify.NewWatcher()
	if err != nil {
		return fmt.Errorf("watch mirrored directories: %w", err)
	}
	defer watcher.Close()
	mirrors := map[string]map[string]bool{"/run": ownRun, "/var/lib": ownLib}
	for dir := range mirrors {
		if _, err := os.Stat(original(dir)); err != nil {
			continue // not mirrored
		}
		if err := watcher.Add(original(dir)); err != nil {
			return fmt.Errorf("watch %s: %w", original(dir), err)
		}
		// What came before the watch: an earlier agent may have died long ago.
		if err := catchUp(dir, mirrors[dir]); err != nil {
			log.Warn("mirror directory", "path", dir, "err", err)
		}
	}
	for {
		select {
		case <-ctx.Done():
			return nil
		case err := <-watcher.Errors:
			log.Warn("watch mirrored directories", "err", err)
		case event, ok := <-watcher.Events:
			if !ok {
				return nil
			}
			path, _ := filepath.Rel(originals, event.Name)
			dir, name := filepath.Dir("/"+path), filepath.Base(path)
			switch {
			case event.Has(fsnotify.Create):
				if err := show(dir, name, mirrors[dir]); err != nil {
					log.Warn("mirror entry", "path", event.Name, "err", err)
				}
			case event.Has(fsnotify.Remove), event.Has(fsnotify.Rename):
				drop(dir, name, mirrors[dir])
			}
		}
	}
}
