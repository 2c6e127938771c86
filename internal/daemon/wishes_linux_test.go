package daemon

import (
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/portolan-net/portolan/internal/portolan"
)

func TestWishesOutliveADaemon(t *testing.T) {
	path := filepath.Join(t.TempDir(), "added-ports.json")
	log := slog.New(slog.DiscardHandler)
	first := newAddedPorts(nil, nil, path, log)
	want := wish{id: "0123456789ab", host: netip.MustParseAddrPort("[::1]:8080"), proto: portolan.UDP, port: 80}
	granted := want
	granted.binding = portolan.Binding{Proto: want.proto, Host: want.host, Container: netip.MustParseAddrPort("172.17.0.2:80")}
	first.wishes = []*wish{&granted}
	first.mu.Lock()
	first.saveLocked()
	first.mu.Unlock()
	next := newAddedPorts(nil, nil, path, log)
	if len(next.wishes) != 1 || *next.wishes[0] != want {
		t.Errorf("the next daemon knows %+v, want %+v", next.wishes, want)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the file is %v, %v", info, err)
	}
}

func TestDamagedWishes(t *testing.T) {
	path := filepath.Join(t.TempDir(), "added-ports.json")
	for _, text := range []string{"{", "[{}]", `[{"container": "x", "host": "127.0.0.1:0", "proto": "tcp", "port": 80}]`, `[{"container": "x", "host": "a", "proto": "tcp", "port": 80}]`} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		a := &addedPorts{path: path}
		if err := a.load(); err == nil || !strings.Contains(err.Error(), path+" is damaged") {
			t.Errorf("load of %s: %v", text, err)
		}
	}
}

// Whatever the file holds: an error that names it, or wishes that can be granted.
func FuzzWishes(f *testing.F) {
	for _, text := range []string{
		`[{"container": "x", "host": "[::]:80", "proto": "udp", "port": 80}]`, `[{"container": "x", "host": "127.0.0.1:0", "proto": "tcp", "port": 80}]`,
		`null`, `[null]`, `[{"port": -1}]`, `{`,
	} {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		path := filepath.Join(t.TempDir(), "added-ports.json")
		if err := os.WriteFile(path, text, 0o600); err != nil {
			t.Fatal(err)
		}
		a := &addedPorts{path: path}
		if err := a.load(); err != nil && (len(a.wishes) > 0 || !strings.Contains(err.Error(), path+" is damaged")) {
			t.Errorf("%d wishes, and %v", len(a.wishes), err)
		}
		for _, w := range a.wishes {
			if w.id == "" || w.port == 0 || !w.host.IsValid() || w.host.Port() == 0 || w.proto != portolan.TCP && w.proto != portolan.UDP {
				t.Errorf("wish %+v", w)
			}
		}
	})
}
