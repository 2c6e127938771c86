package system

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// A NameWatcher and the fake are NameSources.
var _, _ NameSource = (*NameWatcher)(nil), (*FakeNames)(nil)

// effect is the longest that a change may take: five times the promised second,
// for loaded machines.
const effect = 5 * recheckEvery

// files is a host's /etc and /run in a temporary directory.
type files struct {
	t   *testing.T
	top string
}

func newFiles(t *testing.T) files {
	f := files{t, t.TempDir()}
	f.do(os.MkdirAll(f.path("etc"), 0o755))
	f.do(os.MkdirAll(f.path("run/resolve"), 0o755))
	f.write("etc/hosts", "192.0.2.1 old")
	f.write("etc/resolv.conf", "nameserver 192.0.2.1\n")
	return f
}

func (f files) do(err error) {
	f.t.Helper()
	if err != nil {
		f.t.Fatal(err)
	}
}

func (f files) path(name string) string { return filepath.Join(f.top, name) }

func (f files) write(name, text string) {
	f.t.Helper()
	f.do(os.WriteFile(f.path(name), []byte(text), 0o644))
}

// watch starts a watcher. With run false only NameConfig looks at the files.
func (f files) watch(run bool) *NameWatcher {
	f.t.Helper()
	w, err := NewNameWatcher(f.path("etc/resolv.conf"), f.path("etc/hosts"), os.Open, slog.New(slog.DiscardHandler))
	f.do(err)
	if !run {
		return w
	}
	ctx, cancel := context.WithCancel(f.t.Context())
	done := make(chan error, 1)
	go func() { done <- w.Run(ctx) }()
	f.t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			f.t.Errorf("Run = %v", err)
		}
	})
	return w
}

// say joins what a snapshot says: servers, then the addresses of "old" and "new".
func say(cfg *NameConfig) string {
	var words []string
	for _, server := range cfg.Resolver.Servers {
		words = append(words, server.Addr().String())
	}
	for _, name := range []string{"old", "new"} {
		if addrs := cfg.Hosts.Addrs(name); addrs != nil {
			words = append(words, name+"="+join(addrs))
		}
	}
	return strings.Join(words, " ")
}

// eventually waits until source says want. get is current.Load where
// looking must not make the watcher look at the files.
func eventually(t *testing.T, get func() *NameConfig, want string) {
	t.Helper()
	for end := time.Now().Add(effect); ; time.Sleep(5 * time.Millisecond) {
		got := say(get())
		if got == want {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("after %v it says %q, want %q", effect, got, want)
		}
	}
}

// changes are the ways in which the files change on real hosts.
func changes() []struct {
	name   string
	before func(f files)
	change func(f files)
	want   string
} {
	link := func(f files, target string) {
		f.do(os.Remove(f.path("etc/resolv.conf")))
		f.do(os.Symlink(target, f.path("etc/resolv.conf")))
	}
	stub := func(f files) {
		f.write("run/resolve/stub", "nameserver 192.0.2.1\n")
		link(f, "../run/resolve/stub")
	}
	nothing := func(files) {}
	const want = "192.0.2.2 old=192.0.2.1"
	return []struct {
		name   string
		before func(f files)
		change func(f files)
		want   string
	}{
		{"rewritten in place", nothing, func(f files) { f.write("etc/resolv.conf", "nameserver 192.0.2.2\n") }, want},
		{"replaced by rename", nothing, func(f files) {
			f.write("etc/.tmp", "nameserver 192.0.2.2\n")
			f.do(os.Rename(f.path("etc/.tmp"), f.path("etc/resolv.conf")))
		}, want},
		{"truncated and appended later", nothing, func(f files) {
			f.do(os.Truncate(f.path("etc/resolv.conf"), 0))
			time.Sleep(50 * time.Millisecond)
			f.write("etc/resolv.conf", "nameserver 192.0.2.2\n")
		}, want},
		{"removed", nothing, func(f files) { f.do(os.Remove(f.path("etc/resolv.conf"))) }, "old=192.0.2.1"},
		{"emptied", nothing, func(f files) { f.do(os.Truncate(f.path("etc/resolv.conf"), 0)) }, "old=192.0.2.1"},
		{"becomes a link", nothing, func(f files) {
			f.write("run/resolve/stub", "nameserver 192.0.2.2\n")
			link(f, "../run/resolve/stub")
		}, want},
		{"target of the link rewritten", stub, func(f files) { f.write("run/resolve/stub", "nameserver 192.0.2.2\n") }, want},
		{"target of the link replaced", stub, func(f files) {
			f.write("run/resolve/.tmp", "nameserver 192.0.2.2\n")
			f.do(os.Rename(f.path("run/resolve/.tmp"), f.path("run/resolve/stub")))
		}, want},
		{"link turned elsewhere by rename", stub, func(f files) {
			f.write("run/other", "nameserver 192.0.2.2\n")
			f.do(os.Symlink("../run/other", f.path("etc/.tmp")))
			f.do(os.Rename(f.path("etc/.tmp"), f.path("etc/resolv.conf")))
		}, want},
		{"directory of the target replaced", stub, func(f files) {
			f.do(os.RemoveAll(f.path("run/resolve")))
			time.Sleep(50 * time.Millisecond)
			f.do(os.MkdirAll(f.path("run/resolve"), 0o755))
			f.write("run/resolve/stub", "nameserver 192.0.2.2\n")
		}, want},
		{"dangling link gets its target", func(f files) { link(f, "../run/vpn/conf") }, func(f files) {
			f.do(os.MkdirAll(f.path("run/vpn"), 0o755))
			f.write("run/vpn/conf", "nameserver 192.0.2.2\n")
		}, want},
		{"hosts replaced by rename", nothing, func(f files) {
			f.write("etc/.tmp", "192.0.2.9 new")
			f.do(os.Rename(f.path("etc/.tmp"), f.path("etc/hosts")))
		}, "192.0.2.1 new=192.0.2.9"},
	}
}

func TestRunFollowsChanges(t *testing.T) {
	for _, c := range changes() {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			f := newFiles(t)
			c.before(f)
			w := f.watch(true)
			time.Sleep(100 * time.Millisecond) // let it watch; before, it would only read
			c.change(f)
			eventually(t, w.current.Load, c.want)
		})
	}
}

func TestNameConfigLooksWithoutRun(t *testing.T) {
	for _, c := range changes() {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			f := newFiles(t)
			c.before(f)
			w := f.watch(false)
			c.change(f)
			eventually(t, w.NameConfig, c.want)
		})
	}
}

func TestTruncationShowsNoEmptyState(t *testing.T) {
	t.Parallel()
	f := newFiles(t)
	w := f.watch(true)
	time.Sleep(100 * time.Millisecond)
	f.do(os.Truncate(f.path("etc/resolv.conf"), 0))
	for end := time.Now().Add(emptyGrace / 2); time.Now().Before(end); time.Sleep(time.Millisecond) {
		if got := say(w.NameConfig()); got != "192.0.2.1 old=192.0.2.1" {
			t.Fatalf("while the file is being written it says %q", got)
		}
	}
	eventually(t, w.current.Load, "old=192.0.2.1")
}

func TestSnapshotIsSharedUntilContentChanges(t *testing.T) {
	f := newFiles(t)
	w := f.watch(true)
	first := w.NameConfig()
	f.write("etc/resolv.conf", "nameserver 192.0.2.1\n")
	f.write("etc/unrelated", "x")
	time.Sleep(10 * settleTime)
	if w.NameConfig() != first {
		t.Error("the same content made a new snapshot")
	}
	f.write("etc/resolv.conf", "nameserver 192.0.2.3\n")
	eventually(t, w.current.Load, "192.0.2.3 old=192.0.2.1")
	if got := say(first); got != "192.0.2.1 old=192.0.2.1" {
		t.Errorf("the old snapshot changed to %q", got)
	}
}

// A change of the network is a new snapshot with the same content.
func TestNetworkChanged(t *testing.T) {
	w := newFiles(t).watch(false)
	before := w.NameConfig()
	w.NetworkChanged()
	after := w.NameConfig()
	if after == before || after.Network == before.Network || say(after) != say(before) {
		t.Errorf("it says %+v, before %+v", after, before)
	}
}

func TestUnreadableFileKeepsLastContent(t *testing.T) {
	f := newFiles(t)
	w := f.watch(true)
	time.Sleep(100 * time.Millisecond)
	f.do(os.Remove(f.path("etc/resolv.conf")))
	f.do(os.Mkdir(f.path("etc/resolv.conf"), 0o755)) // as good as unreadable, for root too
	f.write("etc/hosts", "192.0.2.9 new")
	eventually(t, w.current.Load, "192.0.2.1 new=192.0.2.9")
	f.do(os.Remove(f.path("etc/resolv.conf")))
	f.write("etc/resolv.conf", "nameserver 192.0.2.2\n")
	eventually(t, w.current.Load, "192.0.2.2 new=192.0.2.9")
}

func TestNewNameWatcherRefusesRelativePaths(t *testing.T) {
	if _, err := NewNameWatcher("resolv.conf", "", os.Open, slog.New(slog.DiscardHandler)); err == nil {
		t.Error("a relative path is accepted")
	}
}

func TestFakeNames(t *testing.T) {
	var zero FakeNames
	if cfg := zero.NameConfig(); cfg == nil || cfg != zero.NameConfig() || say(cfg) != "" {
		t.Errorf("the zero fake says %+v", cfg)
	}
	f := NewFakeNames(NameConfig{Resolver: ParseResolver([]byte("nameserver 192.0.2.1"))})
	first := f.NameConfig()
	f.Set(NameConfig{Hosts: ParseHosts([]byte("192.0.2.9 new"))})
	if say(first) != "192.0.2.1" || say(f.NameConfig()) != "new=192.0.2.9" {
		t.Errorf("the fake says %q, then %q", say(first), say(f.NameConfig()))
	}
}

func BenchmarkNameConfig(b *testing.B) {
	w, err := NewNameWatcher("", "", os.Open, slog.New(slog.DiscardHandler))
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		if w.NameConfig() == nil {
			b.Fatal("no snapshot")
		}
	}
}
