//go:build unix

package settings

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

// world is a profile's files in a directory of the test.
type world struct {
	Files
	t *testing.T
}

func newWorld(t *testing.T) *world {
	t.Helper()
	dir := t.TempDir()
	for _, name := range []string{"state", "etc", "usr"} {
		if err := os.Mkdir(filepath.Join(dir, name), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return &world{t: t, Files: Files{
		User: filepath.Join(dir, "config", "default", "settings.json"), Good: filepath.Join(dir, "state"), Remember: true,
		Admin: []string{filepath.Join(dir, "etc", "admin-settings.json"), filepath.Join(dir, "usr", "admin-settings.json")},
		Owner: uint32(os.Getuid()), CheckEngine: noHosts,
	}}
}

func (w *world) write(path, text string) {
	w.t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		w.t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) open() *Store {
	w.t.Helper()
	s, err := Open(w.Files)
	if err != nil {
		w.t.Fatal(err)
	}
	return s
}

const (
	lockIPv4  = `{"configurationFileVersion": 2, "defaultNetworkingMode": {"locked": true, "value": "ipv4only"}}`
	lockIPv6  = `{"configurationFileVersion": 2, "defaultNetworkingMode": {"locked": true, "value": "ipv6only"}}`
	chooseOne = `{"dnsInhibition": "none"}`
)

func TestFirstAdminFileCounts(t *testing.T) {
	w := newWorld(t)
	w.write(w.Admin[1], lockIPv6)
	if got := w.open().Snapshot().Values.Mode; got != "ipv6only" {
		t.Errorf("with the second file alone: %s", got)
	}
	w.write(w.Admin[0], lockIPv4)
	if got := w.open().Snapshot().Values.Mode; got != "ipv4only" {
		t.Errorf("with both: %s", got)
	}
}

// Whatever is wrong with an admin file: a start without a good copy is refused,
// with one it is in force, and a daemon that runs keeps what it has. The second
// path is no way around the first.
func TestBadAdminFileFailsClosed(t *testing.T) {
	for name, spoil := range map[string]func(w *world, path string){
		"damaged": func(w *world, path string) { w.write(path, `{"configurationFileVersion": 2,`) },
		"a wrong value": func(w *world, path string) {
			w.write(path, strings.ReplaceAll(lockIPv4, "ipv4only", "ipv4"))
		},
		"a link": func(w *world, path string) {
			w.must(os.Rename(path, path+".real"))
			w.must(os.Symlink(path+".real", path))
		},
		"a link to nothing":            func(w *world, path string) { w.must(os.Remove(path)); w.must(os.Symlink("nowhere", path)) },
		"writable by the group":        func(w *world, path string) { w.must(os.Chmod(path, 0o664)) },
		"writable by all":              func(w *world, path string) { w.must(os.Chmod(path, 0o646)) },
		"a directory writable by all":  func(w *world, path string) { w.must(os.Chmod(filepath.Dir(path), 0o777)) },
		"a directory":                  func(w *world, path string) { w.must(os.Remove(path)); w.must(os.Mkdir(path, 0o755)) },
		"too large":                    func(w *world, path string) { w.write(path, lockIPv4+strings.Repeat(" ", maxSize)) },
		"an option that Portolan sets": func(w *world, path string) { w.write(path, adminEngine) },
		"a directory that is a link": func(w *world, path string) {
			dir := filepath.Dir(path)
			w.must(os.Rename(dir, dir+"2"))
			w.must(os.Symlink(dir+"2", dir))
		},
		"somebody else's": func(w *world, path string) {
			if os.Getuid() != 0 {
				w.Owner++
				return
			}
			w.must(os.Chown(path, 1234, 0))
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.write(w.Admin[0], lockIPv4)
			w.write(w.Admin[1], lockIPv6)
			running := w.open()
			spoil(w, w.Admin[0])

			if s, changed := running.Reload(); !changed || s.Values.Mode != "ipv4only" || len(s.Problems) != 1 || !strings.Contains(s.Problems[0], w.Admin[0]) {
				t.Errorf("while running: %v, problems %q", s.Values.Mode, s.Problems)
			}
			s, err := Open(w.Files)
			if err != nil {
				t.Fatal(err)
			}
			snapshot := s.Snapshot()
			if mode, _ := snapshot.Get(KeyMode); snapshot.Values.Mode != "ipv4only" || !mode.Locked || len(snapshot.Problems) != 1 {
				t.Errorf("at a start: %v, problems %q", snapshot.Values.Mode, snapshot.Problems)
			}
			w.must(os.Remove(filepath.Join(w.Good, goodAdmin)))
			if _, err := Open(w.Files); err == nil || !strings.Contains(err.Error(), w.Admin[0]) {
				t.Errorf("without a good copy the start ends with %v", err)
			}
		})
	}
}

const adminEngine = `{"configurationFileVersion": 2, "linuxVM": {"dockerDaemonOptions": {"locked": true, "value": "{\"hosts\": []}"}}}`

func (w *world) must(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

// An administrator who takes the file away lifts the policy for good.
func TestAdminFileGone(t *testing.T) {
	w := newWorld(t)
	w.write(w.Admin[0], lockIPv4)
	s := w.open()
	w.must(os.Remove(w.Admin[0]))
	if next, changed := s.Reload(); !changed || next.Values.Mode != "dual-stack" || len(next.Problems) > 0 {
		t.Errorf("%v, problems %q", next.Values.Mode, next.Problems)
	}
	w.write(w.Admin[0], "damaged")
	if _, err := Open(w.Files); err == nil {
		t.Error("a policy that was lifted counts as the last good one")
	}
}

func TestBadUserFile(t *testing.T) {
	w := newWorld(t)
	w.write(w.User, chooseOne)
	running := w.open()
	w.write(w.User, `{"dnsInhibition": "some"}`)
	if s, _ := running.Reload(); s.Values.Inhibition != "none" || len(s.Problems) != 1 {
		t.Errorf("while running: %s, problems %q", s.Values.Inhibition, s.Problems)
	}
	if s := w.open().Snapshot(); s.Values.Inhibition != "none" || len(s.Problems) != 1 || !strings.Contains(s.Problems[0], w.User+":1: dnsInhibition") {
		t.Errorf("at a start: %s, problems %q", s.Values.Inhibition, s.Problems)
	}
	w.write(w.User, `{"dnsInhibition": "auto"}`)
	if s, _ := running.Reload(); s.Values.Inhibition != "auto" || len(s.Problems) != 0 {
		t.Errorf("corrected: %s, problems %q", s.Values.Inhibition, s.Problems)
	}
	w.write(w.User, `{`)
	w.must(os.Remove(filepath.Join(w.Good, goodUser)))
	if _, err := Open(w.Files); err == nil || !strings.Contains(err.Error(), w.User+":1: not JSON") {
		t.Errorf("without a good copy: %v", err)
	}
}

// Only a daemon writes good copies: a command that looks must not.
func TestLookingKeepsNothing(t *testing.T) {
	w := newWorld(t)
	w.write(w.User, chooseOne)
	w.Remember = false
	w.open()
	if left, _ := os.ReadDir(w.Good); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

func TestSet(t *testing.T) {
	for _, c := range []struct{ name, before, key, value, want, err string }{
		{"a new file", "", KeyMode, "ipv4only", `{"defaultNetworkingMode":"ipv4only"}`, ""},
		{"what is unknown stays", `{"x": {"y": 1e3}}`, KeySubnet4, "10.0.0.0/24", `{"linuxVM":{"vpnkitCIDR":"10.0.0.0/24"},"x":{"y":1e3}}`, ""},
		{"a mode resets the filter", `{"dnsInhibition": "ipv6"}`, KeyMode, "ipv4only", `{"defaultNetworkingMode":"ipv4only"}`, ""},
		{"the same mode does not", `{"dnsInhibition": "ipv6"}`, KeyMode, "dual-stack", `{"defaultNetworkingMode":"dual-stack","dnsInhibition":"ipv6"}`, ""},
		{"an object whole", `{"proxy": {"mode": "manual", "pac": "/x"}}`, "proxy", `{"http": "a:1"}`, `{"proxy":{"http":"a:1"}}`, ""},
		{"by dotted key", `{"proxy": {"pac": "/x"}}`, "proxy.http", `a:1`, `{"proxy":{"http":"a:1","pac":"/x"}}`, ""},
		{"a filter outside dual-stack", `{"defaultNetworkingMode": "ipv4only"}`, KeyInhibition, "ipv6", "", "only in dual-stack"},
		{"no filter outside dual-stack", `{"defaultNetworkingMode": "ipv4only"}`, KeyInhibition, "none", `{"defaultNetworkingMode":"ipv4only","dnsInhibition":"none"}`, ""},
		{"an unknown key", `{}`, "networkingMode", "x", "", "no such key"},
		{"a wrong value", `{}`, KeyMode, "x", "", "want one of"},
		{"an object that is none", `{}`, "proxy", "x", "", "not JSON"},
		{"an option of ours", `{}`, KeyEngine, `{"hosts": []}`, "", `"hosts"`},
		{"one option of the engine's", `{"linuxVM": {"dockerDaemonOptions": {"a": {"b": 1}}}}`, KeyEngine + ".a.c", "x", `{"linuxVM":{"dockerDaemonOptions":{"a":{"b":1,"c":"x"}}}}`, ""},
		{"one beside those in a string", `{"linuxVM": {"dockerDaemonOptions": "{\"a\": true}"}}`, KeyEngine + ".b", `["x"]`, `{"linuxVM":{"dockerDaemonOptions":{"a":true,"b":["x"]}}}`, ""},
		{"one that looks like several", `{}`, KeyEngine + ".a", `1, "b": 2`, `{"linuxVM":{"dockerDaemonOptions":{"a":"1, \"b\": 2"}}}`, ""},
		{"one option of ours", `{}`, KeyEngine + ".hosts", `[]`, "", `"hosts"`},
		{"a locked key", `{}`, KeyBinding, "default-port-binding", "", "locked to local-only-port-binding by "},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t)
			w.write(w.Admin[0], `{"configurationFileVersion": 2, "portBindingBehavior": {"locked": true, "value": "local-only-port-binding"}}`)
			if c.before != "" {
				w.write(w.User, c.before)
			}
			s := w.open()
			edit, err := s.Set(c.key, c.value)
			if (err != nil) != (c.err != "") || err != nil && !strings.Contains(err.Error(), c.err) {
				t.Fatalf("error %v, want %q", err, c.err)
			}
			if err != nil {
				return
			}
			w.must(s.Write(edit))
			text, err := os.ReadFile(w.User)
			w.must(err)
			var got Value
			w.must(got.UnmarshalJSON(text))
			if string(got) != c.want {
				t.Errorf("the file is %s, want %s", got, c.want)
			}
		})
	}
}

func TestUnset(t *testing.T) {
	w := newWorld(t)
	w.write(w.User, `{"linuxVM": {"vpnkitCIDR": "10.0.0.0/24"}, "dnsInhibition": "none"}`)
	s := w.open()
	edit, err := s.Unset(KeySubnet4)
	w.must(err)
	if len(edit.Changes) != 1 || edit.Changes[0].Before != `"10.0.0.0/24"` || edit.Changes[0].After != `"192.168.65.0/24"` {
		t.Errorf("changes: %+v", edit.Changes)
	}
	w.must(s.Write(edit))
	if text, _ := os.ReadFile(w.User); string(text) != "{\n  \"dnsInhibition\": \"none\"\n}\n" {
		t.Errorf("the file is %s", text)
	}
}

// One option of the engine's is changed among those in force, whoever chose them.
func TestOptionOverAdminDefault(t *testing.T) {
	w := newWorld(t)
	w.write(w.Admin[0], `{"configurationFileVersion": 2, "linuxVM": {"dockerDaemonOptions": {"locked": false, "value": "{\"debug\": true}"}}}`)
	s := w.open()
	for _, c := range []struct {
		change func() (Edit, error)
		want   Value
	}{
		{func() (Edit, error) { return s.Set(KeyEngine+".log-driver", "local") }, `{"debug":true,"log-driver":"local"}`},
		{func() (Edit, error) { return s.Unset(KeyEngine + ".debug") }, `{"log-driver":"local"}`},
		{func() (Edit, error) { return s.Unset(KeyEngine + ".log-driver") }, `{"debug":true}`}, // the last one of the user's
	} {
		edit, err := c.change()
		w.must(err)
		w.must(s.Write(edit))
		s.Reload()
		if got := s.value(KeyEngine); got != c.want {
			t.Errorf("in force is %s, want %s", got, c.want)
		}
	}
	if got, ok := s.Snapshot().Option(KeyEngine + ".debug"); !ok || got != "true" {
		t.Errorf("the option is %s, %v", got, ok)
	}
	if got, ok := s.Snapshot().Option(KeyEngine + ".debug.more"); ok {
		t.Errorf("an option in one that is no object is %s", got)
	}
}

// A file that is a link, as with dotfiles, is written where it leads.
func TestWriteThroughLink(t *testing.T) {
	w := newWorld(t)
	real := filepath.Join(w.Good, "dotfiles.json")
	w.write(real, `{}`)
	w.must(os.MkdirAll(filepath.Dir(w.User), 0o755))
	w.must(os.Symlink(real, w.User))
	s := w.open()
	edit, err := s.Set(KeyInhibition, "none")
	w.must(err)
	w.must(s.Write(edit))
	if text, _ := os.ReadFile(real); !strings.Contains(string(text), "none") {
		t.Errorf("the link's target holds %s", text)
	}
	if info, err := os.Lstat(w.User); err != nil || info.Mode()&os.ModeSymlink == 0 {
		t.Error("the link is gone")
	}
}

// noticed bounds how long a change of a file may take to be seen: five times the
// second that the documentation promises.
const noticed = 5 * time.Second

func TestFollow(t *testing.T) {
	w := newWorld(t)
	w.must(os.Remove(filepath.Dir(w.Admin[1])))
	s := w.open()
	before := goleak.IgnoreCurrent()
	ctx, cancel := context.WithCancel(t.Context())
	seen, ended := make(chan *Snapshot, 10), make(chan error)
	go func() { ended <- s.Follow(ctx, func(s *Snapshot) { seen <- s }, slog.New(slog.DiscardHandler)) }()
	expect := func(what string, ok func(*Snapshot) bool) {
		t.Helper()
		limit := time.After(noticed)
		for {
			select {
			case next := <-seen:
				if ok(next) {
					return
				}
			case <-limit:
				t.Fatalf("%s: not seen", what)
			}
		}
	}
	inhibition := func(want string) func(*Snapshot) bool {
		return func(s *Snapshot) bool { return s.Values.Inhibition == want }
	}
	w.write(w.User, chooseOne)
	expect("a new file in new directories", inhibition("none"))
	w.must(os.Remove(w.User))
	expect("the file gone", inhibition("auto"))
	edit, err := s.Set(KeyInhibition, "ipv6")
	w.must(err)
	w.must(s.Write(edit))
	expect("a file put in place", inhibition("ipv6"))
	w.must(os.RemoveAll(filepath.Dir(filepath.Dir(w.User))))
	expect("the directories gone", inhibition("auto"))
	w.write(w.Admin[1], lockIPv4)
	expect("an admin file in a new directory", func(s *Snapshot) bool { return s.Values.Mode == "ipv4only" })
	w.write(w.Admin[0], `{`)
	expect("a damaged one", func(s *Snapshot) bool { return s.Values.Mode == "ipv4only" && len(s.Problems) == 1 })
	w.write(w.Admin[0], lockIPv6)
	expect("a good one", func(s *Snapshot) bool { return s.Values.Mode == "ipv6only" && len(s.Problems) == 0 })
	cancel()
	w.must(<-ended)
	goleak.VerifyNone(t, before)
}
