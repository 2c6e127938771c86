package system

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/fsnotify/fsnotify"
)

// Where the files are unless a test says otherwise.
const (
	ResolverFile = "/etc/resolv.conf"
	HostsFile    = "/etc/hosts"
)

const (
	// settleTime gathers the events of one change (truncate, write, write).
	settleTime = 20 * time.Millisecond
	// emptyGrace is how long a file must be empty or away to be believed: between
	// truncation and writing, or between rm and ln -s, the last state holds.
	emptyGrace = 300 * time.Millisecond
	// recheckEvery bounds the cost of looking at the files on use.
	recheckEvery = time.Second
)

// NameWatcher is the NameSource of a real host.
//
// Theory of operation. A change reaches a snapshot in two ways. Run hears of it
// from the kernel: it watches the directories on the way to each file (WatchDirs),
// not the files, since editors, DHCP clients and VPN programs replace them, or
// replace a link that leads to them; after the events have settled both files are
// read again. And NameConfig looks itself, at most once a second, whether the
// paths now lead to another file, size or time: this catches mounts, network file
// systems, a host out of inotify watches, and callers that do not use Run. A
// snapshot is published only when a file's content differs. A file that can't be
// read leaves the last state in force; a missing one is empty.
type NameWatcher struct {
	log     *slog.Logger
	open    func(path string) (*os.File, error)
	current atomic.Pointer[NameConfig]
	started time.Time
	checked atomic.Int64 // time of the last look at the files, since started

	mu       sync.Mutex // guards resolver and hosts, and that current is replaced
	resolver watchedFile
	hosts    watchedFile
}

// NewNameWatcher reads the two files for the first time. Both paths must be
// absolute; "" stands for ResolverFile and HostsFile. open is os.Open, or what opens
// files that this process may not.
func NewNameWatcher(resolverFile, hostsFile string, open func(path string) (*os.File, error), log *slog.Logger) (*NameWatcher, error) {
	w := &NameWatcher{log: log, open: open, started: time.Now()}
	w.resolver.path, w.hosts.path = resolverFile, hostsFile
	if resolverFile == "" {
		w.resolver.path = ResolverFile
	}
	if hostsFile == "" {
		w.hosts.path = HostsFile
	}
	for _, path := range []string{w.resolver.path, w.hosts.path} {
		if !filepath.IsAbs(path) {
			return nil, fmt.Errorf("watch %s: want an absolute path", path)
		}
	}
	w.current.Store(&NameConfig{Resolver: ParseResolver(nil), Hosts: ParseHosts(nil)})
	w.reload()
	return w, nil
}

// NameConfig implements NameSource. A change is seen within a second whether or
// not Run is running; that a file is gone or empty, emptyGrace later.
func (w *NameWatcher) NameConfig() *NameConfig {
	now, last := int64(time.Since(w.started)), w.checked.Load()
	if now-last >= int64(recheckEvery) && w.checked.CompareAndSwap(last, now) && w.stale() {
		w.reload()
	}
	return w.current.Load()
}

// NetworkChanged tells that the host's routes or addresses are others than before.
func (w *NameWatcher) NetworkChanged() {
	w.mu.Lock()
	defer w.mu.Unlock()
	next := *w.current.Load()
	next.Network++
	w.current.Store(&next)
}

// Run follows the files until ctx ends, and then returns nil.
func (w *NameWatcher) Run(ctx context.Context) error {
	events, err := fsnotify.NewWatcher()
	if err != nil {
		w.log.Warn("name files are looked at once a second only", "err", err)
		<-ctx.Done()
		return nil
	}
	defer events.Close()
	settle := time.NewTimer(0) // fires at once: what changed before Run counts too
	defer settle.Stop()
	soon := true // the timer runs for settleTime or less
	for {
		select {
		case <-ctx.Done():
			return nil
		case event := <-events.Events:
			if event.Op == fsnotify.Chmod {
				continue // the content is the same
			}
		case err := <-events.Errors: // a queue overflow, say: look for yourself
			w.log.Debug("watch of name files reports", "err", err)
		case <-settle.C:
			soon = false
			w.follow(events)
			if w.reload() {
				settle.Reset(emptyGrace)
			}
			continue
		}
		if !soon {
			settle.Reset(settleTime)
			soon = true
		}
	}
}

// follow watches the directories on the way to the files, and no others. It comes
// before reading: what happens after it makes an event.
func (w *NameWatcher) follow(events *fsnotify.Watcher) {
	w.mu.Lock()
	want := append(WatchDirs(w.resolver.path), WatchDirs(w.hosts.path)...)
	w.mu.Unlock()
	have := events.WatchList()
	for _, dir := range have {
		if !slices.Contains(want, dir) {
			_ = events.Remove(dir) // it may be gone already
		}
	}
	for _, dir := range want {
		if slices.Contains(have, dir) {
			continue
		}
		if err := events.Add(dir); err != nil {
			w.log.Debug("directory of name files is looked at once a second only", "dir", dir, "err", err)
		}
	}
}

// stale reports whether a path leads to something else than was read last.
func (w *NameWatcher) stale() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.resolver.stale() || w.hosts.stale()
}

// reload reads both files and publishes what changed. It reports whether a file
// is newly empty, so that somebody should look again after emptyGrace.
func (w *NameWatcher) reload() (unsettled bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	now := time.Since(w.started)
	w.checked.Store(int64(now))
	next := *w.current.Load()
	changed := false
	if text, ok := w.resolver.read(now, w.open, w.log); ok {
		next.Resolver, changed = ParseResolver(text), true
	}
	if text, ok := w.hosts.read(now, w.open, w.log); ok {
		next.Hosts, changed = ParseHosts(text), true
	}
	if changed {
		w.current.Store(&next)
		w.log.Debug("name files read", "servers", next.Resolver.Servers, "hosts", len(next.Hosts.addrs))
	}
	unsettled = w.resolver.doubted || w.hosts.doubted
	if unsettled {
		w.checked.Store(int64(now + emptyGrace - recheckEvery))
	}
	return unsettled
}
