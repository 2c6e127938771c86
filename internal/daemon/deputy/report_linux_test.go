package deputy

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/portolan-net/portolan/internal/profile"
	"github.com/portolan-net/portolan/internal/system"
)

// reported is a deputy's reporter with a fake host, and the daemon's side of it.
func reported(t *testing.T, command func() (string, error)) (*Deputy, system.FakeProxies, chan Report) {
	t.Helper()
	ours, file, err := pair()
	if err != nil {
		t.Fatal(err)
	}
	theirs, err := connOf(file)
	if err != nil {
		t.Fatal(err)
	}
	user, err := sessionUser(func(string) string { return "" })
	if err != nil {
		t.Fatal(err)
	}
	source := system.FakeProxies(make(chan system.Proxies))
	r := &reporter{conn: theirs, source: source, command: command, run: user.run, log: slog.New(slog.DiscardHandler)}
	served, followed := make(chan error, 1), make(chan error, 1)
	go func() { served <- r.serve(context.WithoutCancel(t.Context())) }()
	d, reports := &Deputy{reports: ours}, make(chan Report, 10)
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	go func() { followed <- d.FollowReports(ctx, func(r Report) { reports <- r }) }()
	t.Cleanup(func() {
		cancel() // closes the daemon's end
		for _, ended := range []chan error{followed, served} {
			if err := <-ended; err != nil {
				t.Error(err)
			}
		}
		_ = theirs.Close()
	})
	return d, source, reports
}

func next(t *testing.T, reports chan Report) Report {
	t.Helper()
	select {
	case r := <-reports:
		return r
	case <-time.After(10 * time.Second):
		t.Fatal("no report")
		return Report{}
	}
}

func TestReports(t *testing.T) {
	var command atomic.Value
	command.Store("echo one; echo more")
	d, source, reports := reported(t, func() (string, error) { return command.Load().(string), nil })
	source <- system.Proxies{HTTP: "a:1", Source: "s"}
	next(t, reports) // of one of the two, whichever is first
	if r := next(t, reports); r.Proxies.HTTP != "a:1" || r.Password != "one" || r.Problem != "" {
		t.Errorf("report %+v", r)
	}
	for text, want := range map[string]string{"echo two": "two", "": "", "printf 'three\\r\\n'": "three"} {
		command.Store(text)
		d.AskPassword()
		if r := next(t, reports); r.Password != want || r.Problem != "" || r.Proxies.HTTP != "a:1" {
			t.Errorf("%s: password %q, %q", text, r.Password, r.Problem)
		}
	}
	for text, want := range map[string]string{"echo oops >&2; exit 3": "exit status 3: oops", "true": "it printed nothing"} {
		command.Store(text)
		d.AskPassword()
		if r := next(t, reports); r.Password != "" || !strings.Contains(r.Problem, want) || !strings.Contains(r.Problem, "portolan.proxyPasswordCommand") {
			t.Errorf("%s: password %q, %q", text, r.Password, r.Problem)
		}
	}
}

// A keyring that waits for somebody does not hold the proxies up.
func TestProxiesDoNotWaitForThePassword(t *testing.T) {
	_, source, reports := reported(t, func() (string, error) { return "sleep 2; echo late", nil })
	source <- system.Proxies{HTTP: "a:1", Source: "s"}
	if r := next(t, reports); r.Proxies.HTTP != "a:1" || r.Password != "" {
		t.Errorf("first report %+v, password %q", r, r.Password)
	}
	if r := next(t, reports); r.Proxies.HTTP != "a:1" || r.Password != "late" {
		t.Errorf("second report %+v, password %q", r, r.Password)
	}
}

// A daemon that goes while a password is asked for does not wait for it.
func TestReportsEnd(t *testing.T) {
	began := time.Now()
	t.Run("slow command", func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		defer cancel()
		user, err := sessionUser(func(string) string { return "" })
		if err != nil {
			t.Fatal(err)
		}
		if _, err := user.run(ctx, []string{"/bin/sh", "-c", "sleep 60 & sleep 60"}); err == nil || !strings.Contains(err.Error(), "does not end in time") {
			t.Errorf("run: %v", err)
		}
	})
	if took := time.Since(began); took > 10*time.Second {
		t.Errorf("it took %s", took)
	}
}

// With sudo, what runs is the user's who typed it, with the user's directory.
func TestSessionUser(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Fatal("this test needs root, as scripts/test has it")
	}
	env := map[string]string{"SUDO_UID": "65534"}
	user, err := sessionUser(func(name string) string { return env[name] })
	if err != nil {
		t.Fatal(err)
	}
	if user.home == "/root" || user.home == "" {
		t.Errorf("home is %q", user.home)
	}
	user.home = "/"
	text, err := user.run(t.Context(), []string{"/bin/sh", "-c", "id -u; echo $USER $HOME; cat /proc/self/status | grep ^CapEff"})
	if err != nil || !strings.HasPrefix(string(text), "65534\nnobody ") || !strings.Contains(string(text), "CapEff:\t0000000000000000") {
		t.Errorf("it runs as %q, %v", text, err)
	}
	env["SUDO_UID"] = "4294000000"
	if user, err := sessionUser(func(name string) string { return env[name] }); err == nil {
		t.Errorf("a user that does not exist is %+v", user)
	}
}

// The command comes from the settings themselves.
func TestPasswordCommand(t *testing.T) {
	p := profile.Profile{ConfigDir: t.TempDir(), StateDir: t.TempDir()}
	if err := os.WriteFile(filepath.Join(p.ConfigDir, "settings.json"), []byte(`{"portolan": {"proxyPasswordCommand": "pass show proxy"}}`), 0o600); err != nil {
		t.Fatal(err)
	}
	if got, err := passwordCommand(p); got != "pass show proxy" || err != nil {
		t.Errorf("passwordCommand = %q, %v", got, err)
	}
}

// A deputy that dies leaves what it reported.
func TestReportsOfTheDead(t *testing.T) {
	ours, file, err := pair()
	if err != nil {
		t.Fatal(err)
	}
	theirs, err := connOf(file)
	if err != nil {
		t.Fatal(err)
	}
	d := &Deputy{reports: ours}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- d.FollowReports(ctx, func(Report) {}) }()
	_ = theirs.Close()
	d.AskPassword() // nothing happens
	select {
	case err := <-ended:
		t.Fatalf("it ended with %v before the daemon", err)
	case <-time.After(50 * time.Millisecond):
	}
	cancel()
	if err := <-ended; err != nil && !errors.Is(err, net.ErrClosed) {
		t.Error(err)
	}
}
