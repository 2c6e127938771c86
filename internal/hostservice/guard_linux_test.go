package hostservice

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"
)

func listenUnix(t *testing.T, path string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	l, err := (&net.ListenConfig{}).Listen(context.Background(), "unix", path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
}

// A socket is refused under whichever name, and what is none is said to be none.
func TestGuard(t *testing.T) {
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	g := Guard{Dirs: []string{at("run")}, Sockets: []string{at("home/*/docker.sock")}}
	for _, name := range []string{"run/a/control.sock", "home/u/docker.sock", "free.sock"} {
		listenUnix(t, at(name))
	}
	for _, err := range []error{
		os.Symlink(at("run/a/control.sock"), at("link")),
		os.Symlink("link", at("link2")),
		os.Symlink(at("run/a"), at("dirlink")),
		os.Link(at("run/a/control.sock"), at("hard")),
		os.Link(at("home/u/docker.sock"), at("hard2")),
		os.WriteFile(at("file"), nil, 0o600),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{
		"run/a/control.sock", "home/u/docker.sock", "link", "link2", "dirlink/control.sock", "hard", "hard2",
		"run/later.sock", "home/new/docker.sock", "dirlink/later.sock", "run/../run/a/control.sock",
	} {
		if err := g.Check(t.Context(), Endpoint{"unix", at(name)}); !errors.Is(err, ErrForbidden) {
			t.Errorf("%s: Check = %v, want a refusal", name, err)
		}
		if file, err := ConnectUnix(at(name), g); err == nil {
			_ = file.Close()
			t.Errorf("%s can be connected", name)
		}
	}
	for _, name := range []string{"free.sock", "later.sock"} {
		if err := g.Check(t.Context(), Endpoint{"unix", at(name)}); err != nil {
			t.Errorf("%s: Check = %v", name, err)
		}
	}
	if err := g.Check(t.Context(), Endpoint{"unix", at("file")}); err == nil || errors.Is(err, ErrForbidden) {
		t.Errorf("a file: Check = %v", err)
	}
	file, err := ConnectUnix(at("free.sock"), g)
	if err != nil {
		t.Fatal(err)
	}
	_ = file.Close()
}

// The patterns that ship are ones that path.Match knows, and match what they are
// for, however it is written.
func TestShippedGuards(t *testing.T) {
	for name, g := range map[string]Guard{"host": HostGuard("/run/user/7/portolan/x", "unix:///srv/my.sock"), "machine": MachineGuard()} {
		for _, path := range []string{
			"/run/docker.sock", "/var/run/docker.sock", "/run/containerd/containerd.sock", "/run/containerd/s/0123",
			"/run/portolan/default/portolan.sock", "/run/user/1000/docker.sock", "/run/user/1000/podman/podman.sock",
			"/run/user/1000/portolan/default/portolan.sock", "/run/user/1000/portolan/default/machine/engine.sock",
		} {
			if !g.namesMissing(path) {
				t.Errorf("%s: %s is not forbidden", name, path)
			}
			if name == "machine" && path[:5] == "/run/" && !g.namesMissing("/run/.host"+path) {
				t.Errorf("%s: the host's own %s is not forbidden", name, path)
			}
		}
		for _, path := range []string{"/run/host-services/a.sock", "/run/postgresql/.s.PGSQL.5432", "/run/user/1000/gcr/ssh"} {
			if g.namesMissing(path) {
				t.Errorf("%s: %s is forbidden", name, path)
			}
		}
	}
	if g := HostGuard("/run/user/7/portolan/x", "unix:///srv/my.sock"); !g.namesMissing("/srv/my.sock") || !g.namesMissing("/run/user/7/portolan/y/portolan.sock") {
		t.Error("what the environment names is not forbidden")
	}
	for program, rules := range map[string]bool{"dockerd": true, "containerd-shim": true, "portolan": true, "ssh-agent": false, "postgres": false} {
		if isRuler(program) != rules {
			t.Errorf("isRuler(%q) = %t", program, !rules)
		}
	}
}

// An engine is known on TCP by its port, and by what it says.
func TestGuardTCP(t *testing.T) {
	serve := func(header string) Endpoint {
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/_ping" && header != "" {
				w.Header().Set(header, "false")
			}
		}))
		t.Cleanup(server.Close)
		return Endpoint{"tcp", server.Listener.Addr().String()}
	}
	silent, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	var g Guard
	for _, e := range []Endpoint{serve("Docker-Experimental"), {"tcp", "127.0.0.1:2375"}, {"tcp", "[::1]:2376"}} {
		if err := g.Check(t.Context(), e); !errors.Is(err, ErrForbidden) {
			t.Errorf("%s: Check = %v, want a refusal", e, err)
		}
	}
	for _, e := range []Endpoint{serve(""), serve("Api-Version"), {"tcp", silent.Addr().String()}, {"tcp", "127.0.0.1:1"}} {
		if err := g.Check(t.Context(), e); err != nil {
			t.Errorf("%s: Check = %v", e, err)
		}
	}
	if conn, err := Dial(t.Context(), Endpoint{"tcp", "127.0.0.1:2375"}, g); !errors.Is(err, ErrForbidden) {
		t.Errorf("an engine's port is dialed: %v, %v", conn, err)
	}
}
