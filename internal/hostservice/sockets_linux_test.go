package hostservice

import (
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestSockets(t *testing.T) {
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	s := &Sockets{Guard: Guard{Dirs: []string{at("engine")}}}
	listen := func(name string) net.Listener {
		t.Helper()
		file, err := s.Listen(at(name))
		if err != nil {
			t.Fatal(err)
		}
		l, err := net.FileListener(file)
		if err != nil {
			t.Fatal(err)
		}
		_ = file.Close()
		return l
	}
	first := listen("a")
	defer first.Close()
	info, err := os.Lstat(at("a"))
	if err != nil || info.Mode() != os.ModeSocket|0o600 {
		t.Errorf("the socket: %v, %v", info.Mode(), err)
	}
	if conn, err := net.Dial("unix", at("a")); err != nil {
		t.Error(err)
	} else {
		_ = conn.Close()
	}
	if err := os.WriteFile(at("file"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"a", "file", "none/a", "engine/a"} {
		if _, err := s.Listen(at(name)); err == nil || !strings.Contains(err.Error(), at(name)) {
			t.Errorf("%s: %v", name, err)
		}
	}

	// Somebody else's, left behind, is replaced; ours, replaced by somebody, is theirs.
	_ = first.Close()
	second := listen("a")
	defer second.Close()
	third := listen("b")
	defer third.Close()
	if err := os.Remove(at("b")); err != nil {
		t.Fatal(err)
	}
	listenUnix(t, at("b"))
	s.Remove(at("b"))
	s.Remove(at("file"))
	s.Close()
	for name, there := range map[string]bool{"a": false, "b": true, "file": true} {
		if _, err := os.Lstat(at(name)); (err == nil) != there {
			t.Errorf("%s: %v, want it there: %t", name, err, there)
		}
	}
}
