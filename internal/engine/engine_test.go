package engine

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/portolan-net/portolan/internal/portolan"
)

// fakeEngine makes a directory with an engine whose dockerd prints line.
func fakeEngine(t *testing.T, line string, without string) string {
	t.Helper()
	dir := t.TempDir()
	for _, name := range required {
		if name == without {
			continue
		}
		script := "#!/bin/sh\necho '" + line + "'\n"
		if err := os.WriteFile(filepath.Join(dir, name), []byte(script), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestFind(t *testing.T) {
	good := fakeEngine(t, "Docker version 29.8.1, build abc", "")
	old := fakeEngine(t, "Docker version 20.10.24+dfsg1, build 297e128", "")
	silent := fakeEngine(t, "hello", "")
	partial := fakeEngine(t, "Docker version 29.8.1, build abc", "runc")
	onPath := func(dir string) string { return dir + ":/usr/bin:/bin" }
	for _, c := range []struct {
		name, path      string
		choice          Choice
		bundled         string
		version, source string
		err             string
	}{
		{"bundled", "", "bundled", good, "29.8.1", "bundled", ""},
		{"auto without installed", "", "auto", good, "29.8.1", "bundled", ""},
		{"auto takes installed", good, "auto", "/nowhere", "29.8.1", filepath.Join(good, "dockerd"), ""},
		{"auto skips old", old, "auto", good, "29.8.1", "bundled", ""},
		{"auto with nothing", "", "auto", "/nowhere", "", "", "make engine"},
		{"path", "", Choice(filepath.Join(good, "dockerd")), "", "29.8.1", filepath.Join(good, "dockerd"), ""},
		{"old path", "", Choice(filepath.Join(old, "dockerd")), "", "", "", "too old"},
		{"relative path", "", "dockerd", "", "", "", "absolute path"},
		{"no version", "", Choice(filepath.Join(silent, "dockerd")), "", "", "", "no version"},
		{"missing runc", "", Choice(filepath.Join(partial, "dockerd")), "", "", "", "runc is missing"},
		{"bundled without runc", "", "bundled", partial, "", "", "runc is missing beside it"},
		{"a directory", "", Choice(good), "", "", "", "is a directory; want the path of a dockerd, like " + good + "/dockerd"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Setenv("PATH", onPath(c.path))
			got, err := Find(t.Context(), c.choice, c.bundled)
			if c.err != "" {
				if err == nil || !strings.Contains(err.Error(), c.err) {
					t.Fatalf("error %v, want one with %q", err, c.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if got.Version != c.version || got.Source != c.source {
				t.Errorf("got %+v, want version %s from %s", got, c.version, c.source)
			}
		})
	}
}

func TestDaemonJSON(t *testing.T) {
	layout := Layout{Socket: "/run/portolan/engine.sock", Shim: "/x/docker-proxy", Link: portolan.DefaultLink()}
	text, err := layout.DaemonJSON(map[string]any{"live-restore": false, "insecure-registries": []string{"r:5000"}})
	if err != nil {
		t.Fatal(err)
	}
	var got map[string]any
	if err := json.Unmarshal(text, &got); err != nil {
		t.Fatal(err)
	}
	for key, want := range map[string]any{
		"ip-masq": false, "allow-direct-routing": true, "userland-proxy": true,
		"userland-proxy-path": "/x/docker-proxy", "live-restore": false,
	} {
		if got[key] != want {
			t.Errorf("%s = %v, want %v", key, got[key], want)
		}
	}
	if _, set := got["init-path"]; set {
		t.Error("init-path is set without an init")
	}
	if _, err := layout.DaemonJSON(map[string]any{"ip-masq": true}); err == nil || !strings.Contains(err.Error(), `"ip-masq"`) {
		t.Errorf("an owned key gives error %v", err)
	}
}

func TestLiveRestoreOption(t *testing.T) {
	for _, c := range []struct {
		options map[string]any
		want    bool
	}{{nil, true}, {map[string]any{"live-restore": false}, false}, {map[string]any{"live-restore": true}, true}} {
		s := Supervisor{Options: c.options}
		if got := s.liveRestore(); got != c.want {
			t.Errorf("liveRestore with %v = %v", c.options, got)
		}
	}
}

// The engine finds iptables whatever PATH its user has.
func TestProgramPath(t *testing.T) {
	t.Setenv("PATH", "/home/me/bin:/usr/bin")
	if got, want := programPath("/opt/engine"), "/opt/engine:/home/me/bin:/usr/bin:/usr/local/sbin:/usr/sbin:/sbin"; got != want {
		t.Errorf("programPath = %s, want %s", got, want)
	}
}
