package client

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/portolan-net/portolan/internal/api"
	"github.com/portolan-net/portolan/internal/profile"
)

// testProfile is a profile in a directory of its own, short enough for sockets.
func testProfile(t *testing.T, name string) profile.Profile {
	t.Helper()
	dir, err := os.MkdirTemp("", "ptl")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return profile.Profile{Name: name, StateDir: dir, RunDir: dir}
}

// serve answers on the profile's control socket until the test ends.
func serve(t *testing.T, p profile.Profile, h http.Handler) {
	t.Helper()
	var lc net.ListenConfig
	l, err := lc.Listen(t.Context(), "unix", p.ControlSocket())
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewUnstartedServer(h)
	_ = server.Listener.Close()
	server.Listener = l
	server.Start()
	t.Cleanup(server.Close)
}

func TestStatus(t *testing.T) {
	p := testProfile(t, "default")
	serve(t, p, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodGet || r.URL.Path != "/v1/status" {
			t.Errorf("request = %s %s", r.Method, r.URL.Path)
		}
		_, _ = w.Write([]byte(`{"profile":"default","state":"running","daemon":{"pid":42},
			"ports":[{"proto":"tcp","host":"0.0.0.0:80","container":"172.17.0.2:80"}]}`))
	}))
	status, err := New(p).Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if status.State != api.Running || status.Daemon.PID != 42 || len(status.Ports) != 1 {
		t.Errorf("Status = %+v", status)
	}
}

// A daemon that dies over its answer is asked no second time, the next one is.
func TestStatusOfTheNextDaemon(t *testing.T) {
	p := testProfile(t, "default")
	asked := 0
	serve(t, p, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if asked++; asked == 1 {
			panic(http.ErrAbortHandler) // the connection ends without an answer
		}
		_, _ = w.Write([]byte(`{"daemon":{"pid":43}}`))
	}))
	status, err := New(p).Status(t.Context())
	if err != nil || status.Daemon.PID != 43 || asked != 2 {
		t.Errorf("Status = %+v, %v after %d requests", status, err, asked)
	}
}

func TestDown(t *testing.T) {
	p := testProfile(t, "default")
	var asked string
	serve(t, p, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { asked = r.Method + " " + r.URL.Path }))
	if err := New(p).Down(t.Context()); err != nil {
		t.Fatal(err)
	}
	if asked != "POST /v1/down" {
		t.Errorf("asked %q", asked)
	}
}

func TestErrorAnswers(t *testing.T) {
	for _, c := range []struct{ name, body, want string }{
		{"json", `{"error":"stop dockerd: it does not end"}`, "stop the machine: stop dockerd: it does not end"},
		{"text", "boom\n", "stop the machine: 500 Internal Server Error: boom"},
		{"empty", "", "stop the machine: 500 Internal Server Error"},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := testProfile(t, "default")
			serve(t, p, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				w.WriteHeader(http.StatusInternalServerError)
				_, _ = w.Write([]byte(c.body))
			}))
			err := New(p).Down(t.Context())
			if err == nil || err.Error() != c.want {
				t.Errorf("Down = %v, want %s", err, c.want)
			}
		})
	}
}

func TestGarbageAnswer(t *testing.T) {
	p := testProfile(t, "default")
	serve(t, p, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("<html>")) }))
	if _, err := New(p).Status(t.Context()); err == nil || !strings.Contains(err.Error(), "read the daemon's answer to /v1/status") {
		t.Errorf("Status = %v", err)
	}
}

func TestNotRunning(t *testing.T) {
	for name, hint := range map[string]string{
		"default": "portolan is not running: start it with: portolan up",
		"two":     "portolan is not running: start it with: portolan --profile two up",
	} {
		p := testProfile(t, name)
		check := func(state string) {
			_, err := New(p).Status(t.Context())
			if !errors.Is(err, ErrNotRunning) || err.Error() != hint {
				t.Errorf("%s, %s: Status = %v", name, state, err)
			}
		}
		check("no socket")
		l, err := net.ListenUnix("unix", &net.UnixAddr{Name: p.ControlSocket()})
		if err != nil {
			t.Fatal(err)
		}
		l.SetUnlinkOnClose(false)
		_ = l.Close()
		check("a dead daemon's socket")
	}
}

func TestContextEndsRequest(t *testing.T) {
	p := testProfile(t, "default")
	release := make(chan struct{})
	serve(t, p, http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-release }))
	defer close(release)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := New(p).Status(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Status = %v, want the deadline", err)
	}
}
