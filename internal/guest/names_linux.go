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

	"github.com/portolan-net/portolan/internal/spec"
	"github.com/portolan-net/portolan/internal/system"
)

// nameFiles are the machine's own files of the resolver, below AgentDir, and
// the host's files that they stand for.
var nameFiles = map[string]string{"resolv.conf": "/etc/resolv.conf", "hosts": "/etc/hosts"}

// WriteNames writes the machine's own resolver files and mounts them. It may be
// repeated: what is mounted then says something else.
func WriteNames(cfg spec.Machine) error {
	dns, host := cfg.Link.DNS(), cfg.Link.Host()
	texts := map[string]string{
		"resolv.conf": fmt.Sprintf("# The machine's resolver is Portolan, which follows the host's.\nnameserver %s\nnameserver %s\n", dns.V4, dns.V6),
		"hosts": fmt.Sprintf("127.0.0.1 localhost portolan\n::1 localhost ip6-localhost ip6-loopback\n%s host.docker.internal\n%s host.docker.internal\n",
			host.V4, host.V6),
	}
	for name, text := range texts {
		if err := os.WriteFile(filepath.Join(AgentDir, name), []byte(text), 0o644); err != nil {
			return err
		}
		if err := mountName(name); err != nil {
			return err
		}
	}
	return nil
}

// mountName puts one of nameFiles over the host's, unless it is there already.
func mountName(name string) error {
	own, target := filepath.Join(AgentDir, name), nameFiles[name]
	var a, b unix.Stat_t
	if err := unix.Stat(own, &a); err != nil {
		return err
	}
	err := unix.Stat(target, &b)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil // programs use --dns or fall back; nothing can be mounted here
	case err != nil:
		return err
	case a.Ino == b.Ino && a.Dev == b.Dev:
		return nil
	}
	return bind(own, target)
}

// FollowNames mounts the machine's resolver files again when the host replaced
// its own by renaming, or by a link: the kernel takes a mount off a file that goes.
func FollowNames(ctx context.Context, log *slog.Logger) error {
	watcher, err := fsnotify.NewWatcher()
	if err != nil {
		return fmt.Errorf("watch resolver files: %w", err)
	}
	defer watcher.Close()
	for {
		// The directories first: what is replaced after that makes an event.
		for name, path := range nameFiles {
			watchWay(watcher, path, log)
			if err := mountName(name); err != nil {
				log.Warn("mount resolver file", "path", path, "err", err)
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case err := <-watcher.Errors:
			log.Warn("watch resolver files", "err", err)
		case <-watcher.Events:
		}
	}
}

// watchWay watches the directories on the present way to path. Those of former
// ways stay: their events are harmless.
func watchWay(watcher *fsnotify.Watcher, path string, log *slog.Logger) {
	for _, dir := range system.WatchDirs(path) {
		if err := watcher.Add(dir); err != nil {
			log.Warn("watch resolver file", "path", path, "dir", dir, "err", err)
		}
	}
}
