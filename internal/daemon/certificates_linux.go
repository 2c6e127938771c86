package daemon

import (
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"

	"github.com/fsnotify/fsnotify"

	"github.com/portolan-net/portolan/internal/system"
)

// certificates follows the host's CA store for the engine.
//
// Theory of operation. dockerd sees the host's files, but reads the CA store once
// in its life. When the store has changed and rested for settle, dockerd is
// started again with the configuration it has; containers go on (live-restore).
// That would cut off who is attached, builds or pulls, so it waits until nobody
// is; meanwhile `portolan status` tells, the log names who, and `portolan settings
// apply` does it at once. /etc/docker/certs.d is none of this: dockerd reads it
// for each registry.
type certificates struct {
	quiet   func(ctx context.Context, restart func() error) (bool, error) // enginesocket.Proxy.WhileQuiet
	restart func(context.Context) error
	log     *slog.Logger
	files   []string // bundles
	dirs    []string // of single certificates
	settle  time.Duration

	trusted atomic.Pointer[[sha256.Size]byte] // what the engine started with
}

// certificateSettle lets update-ca-certificates finish: it writes some hundred
// links and a bundle.
const certificateSettle = 2 * time.Second

func (d *daemon) newCertificates(quiet func(context.Context, func() error) (bool, error)) *certificates {
	c := &certificates{
		quiet: quiet, log: d.Log.With("part", "certificates"), settle: certificateSettle,
		files: system.CertificateFiles(), dirs: []string{"/etc/ssl/certs", "/etc/pki/tls/certs"},
		restart: func(ctx context.Context) error {
			ctx, cancel := context.WithTimeout(ctx, engineRestart)
			defer cancel()
			return d.configureEngine(ctx, d.engineConfig())
		},
	}
	c.renewed()
	return c
}

// renewed notes that the engine has started with the store as it is.
func (c *certificates) renewed() {
	now := c.fingerprint()
	c.trusted.Store(&now)
}

// pending reports that the engine does not trust what the host trusts.
func (c *certificates) pending() bool { return c.fingerprint() != *c.trusted.Load() }

// fingerprint tells two states of the store apart.
func (c *certificates) fingerprint() (sum [sha256.Size]byte) {
	h := sha256.New()
	for _, path := range c.files {
		if file, err := os.Open(path); err == nil {
			_, _ = io.Copy(h, file) // half of it is another state, too
			_ = file.Close()
			break
		}
	}
	for _, dir := range c.dirs {
		entries, err := os.ReadDir(dir)
		if err != nil {
			continue
		}
		for _, e := range entries {
			if info, err := os.Stat(filepath.Join(dir, e.Name())); err == nil && info.Mode().IsRegular() {
				fmt.Fprintln(h, e.Name(), info.Size(), info.ModTime().UnixNano())
			}
		}
	}
	h.Sum(sum[:0])
	return sum
}

// run follows the store until ctx ends. Where the system gives no watches, it
// says so.
func (c *certificates) run(ctx context.Context) {
	watcher, err := fsnotify.NewWatcher()
	if err != nil {
		c.log.Warn("CA certificates are not followed; after a change type: portolan settings apply", "err", err)
		return
	}
	defer watcher.Close()
	for _, dir := range c.watched() {
		if err := watcher.Add(dir); err != nil {
			c.log.Warn("CA certificates are not followed everywhere; after a change type: portolan settings apply", "dir", dir, "err", err)
		}
	}
	look := time.NewTimer(c.settle) // the store may have changed before it was watched
	defer look.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-watcher.Events:
			look.Reset(c.settle)
		case err := <-watcher.Errors:
			c.log.Warn("watch CA certificates", "err", err)
			look.Reset(c.settle)
		case <-look.C:
			if c.pending() && !c.apply(ctx) {
				look.Reset(c.settle)
			}
		}
	}
}

// watched are the directories in which a change of the store shows.
func (c *certificates) watched() []string {
	var dirs []string
	seen := map[string]bool{}
	for _, path := range append(append([]string{}, c.files...), filepath.Join(c.dirs[0], "any"), filepath.Join(c.dirs[1], "any")) {
		for _, p := range []string{path, resolvedPath(path)} {
			dir := filepath.Dir(p)
			if info, err := os.Stat(dir); err == nil && info.IsDir() && !seen[dir] {
				seen[dir] = true
				dirs = append(dirs, dir)
			}
		}
	}
	return dirs
}

func resolvedPath(path string) string {
	if resolved, err := filepath.EvalSymlinks(path); err == nil {
		return resolved
	}
	return path
}

// apply starts the engine again when that cuts nobody off, and reports whether it
// did.
func (c *certificates) apply(ctx context.Context) bool {
	var was [sha256.Size]byte
	done, err := c.quiet(ctx, func() error {
		was = c.fingerprint()
		return c.restart(ctx)
	})
	if err != nil {
		c.log.Warn("engine does not trust the host's new CA certificates yet", "err", err)
	}
	if !done || err != nil {
		return false
	}
	c.trusted.Store(&was)
	c.log.Info("engine trusts the host's new CA certificates")
	return true
}

// certificatesPending reports that the engine does not trust what the host
// trusts now.
func (d *daemon) certificatesPending() bool {
	c := d.certificates.Load()
	return c != nil && c.pending()
}

// certificatesRenewed notes a restart of the engine for another reason.
func (d *daemon) certificatesRenewed() {
	if c := d.certificates.Load(); c != nil {
		c.renewed()
	}
}
