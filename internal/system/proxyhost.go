package system

import (
	"context"
	"log/slog"
	"path/filepath"
	"reflect"
	"slices"
	"time"

	"github.com/fsnotify/fsnotify"
)

// ProxySource tells what a host's user has set up. What another operating system
// has instead of files is another implementation.
type ProxySource interface {
	// FollowProxies calls changed with the present state, and again whenever it
	// has changed, until ctx ends.
	FollowProxies(ctx context.Context, changed func(Proxies)) error
}

// ProxyHost is the ProxySource of a Linux host, for one user. Of the places that
// say something the first counts: the environment, GNOME, KDE, /etc/environment.
// An environment that came from /etc/environment follows that file.
type ProxyHost struct {
	Home   string
	Getenv func(name string) string // of the user's session
	// Run starts a program as the user and returns what it prints.
	Run func(ctx context.Context, argv []string) ([]byte, error)
	// Environment is the path of environment(5), "" for the usual one.
	Environment string
	Log         *slog.Logger
}

func (h *ProxyHost) environmentFile() string {
	if h.Environment != "" {
		return h.Environment
	}
	return "/etc/environment"
}

func (h *ProxyHost) kdeFile() string { return filepath.Join(h.Home, ".config", "kioslaverc") }

// gnomeFiles are where GNOME's settings may be: the user's, and those that an
// administrator gives.
func (h *ProxyHost) gnomeFiles() []string {
	return []string{
		filepath.Join(h.Home, ".config", "dconf", "user"),
		filepath.Join(h.Home, ".config", "glib-2.0", "settings", "keyfile"),
		"/etc/dconf/db/local",
	}
}

// gnomeTime bounds gsettings.
const gnomeTime = 3 * time.Second

// read looks at all places; fileRules: the session's environment is that of the
// file.
func (h *ProxyHost) read(ctx context.Context, fileRules bool) Proxies {
	if p := variables(h.Getenv, "environment"); p.any() && !fileRules {
		return p
	}
	if p := h.gnome(ctx); p.any() {
		return p
	}
	if p := parseKDE(readSmall(h.kdeFile())); p.any() {
		return p
	}
	return h.fromFile()
}

func (h *ProxyHost) fromFile() Proxies {
	values := parseEnvironment(readSmall(h.environmentFile()))
	return variables(func(name string) string { return values[name] }, h.environmentFile())
}

// gnome asks gsettings, where there is anything to ask about.
func (h *ProxyHost) gnome(ctx context.Context) Proxies {
	if !slices.ContainsFunc(h.gnomeFiles(), func(path string) bool { return len(readSmall(path)) > 0 }) {
		return Proxies{}
	}
	ctx, cancel := context.WithTimeout(ctx, gnomeTime)
	defer cancel()
	text, err := h.Run(ctx, gnomeArgs())
	if err != nil {
		h.Log.Debug("gsettings does not tell of proxies", "err", err)
		return Proxies{}
	}
	return parseGNOME(text)
}

// FollowProxies implements ProxySource. A change counts within a second.
func (h *ProxyHost) FollowProxies(ctx context.Context, changed func(Proxies)) error {
	session := variables(h.Getenv, h.environmentFile())
	fileRules := session.any() && reflect.DeepEqual(session, h.fromFile())
	events, err := fsnotify.NewWatcher()
	if err != nil {
		h.Log.Warn("changes of this host's proxy settings are not seen", "err", err)
		changed(h.read(ctx, fileRules))
		<-ctx.Done()
		return nil
	}
	defer events.Close()
	var last *Proxies
	for settle := time.NewTimer(0); ; {
		select {
		case <-ctx.Done():
			settle.Stop()
			return nil
		case event := <-events.Events:
			if event.Op != fsnotify.Chmod {
				settle.Reset(settleTime)
			}
		case err := <-events.Errors:
			h.Log.Debug("watch of proxy settings reports", "err", err)
			settle.Reset(settleTime)
		case <-settle.C:
			h.watch(events)
			if next := h.read(ctx, fileRules); last == nil || !reflect.DeepEqual(*last, next) {
				last = &next
				changed(next)
			}
		}
	}
}

// watch watches the directories of all files, as they are now.
func (h *ProxyHost) watch(events *fsnotify.Watcher) {
	var want []string
	for _, path := range append(h.gnomeFiles(), h.kdeFile(), h.environmentFile()) {
		want = append(want, WatchDirs(path)...)
	}
	have := events.WatchList()
	for _, dir := range want {
		if !slices.Contains(have, dir) {
			if err := events.Add(dir); err != nil {
				h.Log.Debug("directory of proxy settings is not followed", "dir", dir, "err", err)
			}
		}
	}
}

// FakeProxies is a ProxySource that says what comes from the channel.
type FakeProxies chan Proxies

// FollowProxies implements ProxySource.
func (f FakeProxies) FollowProxies(ctx context.Context, changed func(Proxies)) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case p := <-f:
			changed(p)
		}
	}
}
