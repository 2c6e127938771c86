package agentlink

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/portolan-net/portolan/internal/api"
	"github.com/portolan-net/portolan/internal/portolan"
)

// limit is a deadline that only a hang reaches.
const limit = 10 * time.Second

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// daemon records its calls.
type daemon struct {
	calls chan string
	mu    sync.Mutex // guards err
	err   error
	hold  chan struct{} // Publish waits for it, unless nil
}

func newDaemon() *daemon { return &daemon{calls: make(chan string, 1000)} }

func (d *daemon) answer(call string) error {
	d.calls <- call
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.err
}

func (d *daemon) refuse(err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.err = err
}

func (d *daemon) Publish(_ context.Context, b portolan.Binding) error {
	err := d.answer("publish " + b.String())
	if d.hold != nil {
		<-d.hold
	}
	return err
}

func (d *daemon) Renew(_ context.Context, b portolan.Binding) error {
	return d.answer("renew " + b.String())
}

func (d *daemon) Unpublish(_ context.Context, b portolan.Binding) error {
	return d.answer("unpublish " + b.String())
}

func (d *daemon) Release(_ context.Context, b portolan.Binding) error {
	return d.answer("release " + b.String())
}

func (d *daemon) AgentHere()                   { _ = d.answer("here") }
func (d *daemon) AgentGone()                   { _ = d.answer("gone") }
func (d *daemon) SetEngine(e api.Engine)       { _ = d.answer("engine " + e.Version) }
func (d *daemon) SetNetworks(n []netip.Prefix) { _ = d.answer(fmt.Sprint("networks ", n)) }
func (d *daemon) SetHostNetwork(n portolan.HostNetwork) {
	_ = d.answer(fmt.Sprint("host network ", n.Used, n.Listeners))
}

func (d *daemon) Listeners() []string { return []string{"unix:/run/host-services/a.sock"} }

// Forward echoes.
func (d *daemon) Forward(_ context.Context, listener string, accept func() (*net.UnixConn, error)) error {
	if err := d.answer("forward " + listener); err != nil {
		return err
	}
	conn, err := accept()
	if err != nil {
		return nil // told by the stream's end
	}
	defer conn.Close()
	_, _ = io.Copy(conn, conn)
	return nil
}

func (d *daemon) want(t *testing.T, call string) {
	t.Helper()
	select {
	case got := <-d.calls:
		if got != call {
			t.Fatalf("the daemon is told %q, want %q", got, call)
		}
	case <-time.After(limit):
		t.Fatalf("the daemon is not told %q", call)
	}
}

// wantAmong waits for a call and skips others.
func (d *daemon) wantAmong(t *testing.T, call string, skip ...string) {
	t.Helper()
	for {
		select {
		case got := <-d.calls:
			if got == call {
				return
			}
			if !slices.Contains(skip, got) {
				t.Fatalf("the daemon is told %q, want %q", got, call)
			}
		case <-time.After(limit):
			t.Fatalf("the daemon is not told %q", call)
		}
	}
}

func logger(t *testing.T) *slog.Logger {
	t.Helper()
	return slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelDebug}))
}

// start serves d on socket and returns what stops it.
func start(t *testing.T, socket string, d Daemon) (stop func()) {
	t.Helper()
	var lc net.ListenConfig
	l, err := lc.Listen(t.Context(), "unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- Serve(ctx, l, d, logger(t)) }()
	stop = sync.OnceFunc(func() {
		cancel()
		select {
		case err := <-done:
			if err != nil {
				t.Errorf("Serve: %v", err)
			}
		case <-time.After(limit):
			t.Error("Serve does not return")
		}
	})
	t.Cleanup(stop)
	return stop
}

func newClient(t *testing.T, socket string) *Client {
	t.Helper()
	c := NewClient(socket, logger(t))
	t.Cleanup(c.http.CloseIdleConnections)
	return c
}

// watch runs the client's loop and returns what stops it.
func watch(t *testing.T, c *Client, connected func(context.Context)) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); c.Run(ctx, connected) }()
	stop = sync.OnceFunc(func() {
		cancel()
		select {
		case <-done:
		case <-time.After(limit):
			t.Error("Run does not return")
		}
	})
	t.Cleanup(stop)
	return stop
}

func example() portolan.Binding {
	return portolan.Binding{
		Proto:     portolan.TCP,
		Host:      netip.MustParseAddrPort("0.0.0.0:80"),
		Container: netip.MustParseAddrPort("172.17.0.2:80"),
	}
}

func socketPath(t *testing.T) string { t.Helper(); return filepath.Join(t.TempDir(), "daemon.sock") }

func TestVerbs(t *testing.T) {
	socket, d := socketPath(t), newDaemon()
	start(t, socket, d)
	c := newClient(t, socket)
	b := example()
	networks := []netip.Prefix{netip.MustParsePrefix("172.17.0.0/16"), netip.MustParsePrefix("fd00::/64")}
	for _, call := range []struct {
		do   func() error
		want string
	}{
		{func() error { return c.Publish(t.Context(), b) }, "publish " + b.String()},
		{func() error { return c.Renew(t.Context(), b) }, "renew " + b.String()},
		{func() error { return c.Unpublish(t.Context(), b) }, "unpublish " + b.String()},
		{func() error { return c.Release(t.Context(), b) }, "release " + b.String()},
		{func() error { return c.SetEngine(t.Context(), api.Engine{Version: "29.1"}) }, "engine 29.1"},
		{func() error { return c.SetNetworks(t.Context(), networks) }, "networks [172.17.0.0/16 fd00::/64]"},
		{func() error { return c.SetNetworks(t.Context(), nil) }, "networks []"},
		{func() error {
			return c.SetHostNetwork(t.Context(), portolan.HostNetwork{Used: true, Listeners: []portolan.Listener{{Proto: portolan.UDP, Addr: b.Host}}})
		}, "host network true [udp 0.0.0.0:80]"},
	} {
		if err := call.do(); err != nil {
			t.Fatalf("%s: %v", call.want, err)
		}
		d.want(t, call.want)
	}
}

func TestErrorsKeepTextAndMeaning(t *testing.T) {
	socket, d := socketPath(t), newDaemon()
	start(t, socket, d)
	c := newClient(t, socket)
	for _, e := range []struct {
		err    error
		status int
	}{
		{fmt.Errorf("listen on 0.0.0.0:80/tcp: %w: held by x (pid 7)", syscall.EADDRINUSE), http.StatusConflict},
		{fmt.Errorf("listen on 1.2.3.4:80/tcp: %w", syscall.EADDRNOTAVAIL), http.StatusBadRequest},
		{fmt.Errorf("listen on 0.0.0.0:80/tcp: %w", syscall.EACCES), http.StatusForbidden},
		{errors.New("something else"), http.StatusInternalServerError},
	} {
		d.refuse(e.err)
		err := c.Publish(t.Context(), example())
		want := &Error{Status: e.status, Text: e.err.Error()}
		var got *Error
		if !errors.As(err, &got) || !reflect.DeepEqual(got, want) || err.Error() != e.err.Error() {
			t.Errorf("Publish = %#v, want %#v", err, want)
		}
	}
}

func TestServerRefusesNonsense(t *testing.T) {
	socket, d := socketPath(t), newDaemon()
	start(t, socket, d)
	c := newClient(t, socket)
	for _, r := range []struct {
		method, path, body string
		status             int
	}{
		{http.MethodPost, pathPublish, `{"proto":"sctp","host":"0.0.0.0:80","container":"172.17.0.2:80"}`, http.StatusBadRequest},
		{http.MethodPost, pathPublish, `{"proto":"icmp","host":"0.0.0.0:80","container":"172.17.0.2:80"}`, http.StatusBadRequest},
		{http.MethodPost, pathPublish, `{}`, http.StatusBadRequest},
		{http.MethodPost, pathPublish, ``, http.StatusBadRequest},
		{http.MethodPost, pathPublish, `"` + strings.Repeat("x", 2*maxBody) + `"`, http.StatusBadRequest},
		{http.MethodPut, pathNetworks, `["no network"]`, http.StatusBadRequest},
		{http.MethodPut, pathHostNet, `{"listeners":[{"proto":"icmp","addr":"0.0.0.0:80"}]}`, http.StatusBadRequest},
		{http.MethodPut, pathHostNet, `{"listeners":[{"proto":"tcp","addr":"0.0.0.0:0"}]}`, http.StatusBadRequest},
		{http.MethodGet, pathPublish, ``, http.StatusMethodNotAllowed},
		{http.MethodGet, "/v2/publish", ``, http.StatusNotFound},
	} {
		resp, err := c.do(t.Context(), r.method, r.path, strings.NewReader(r.body))
		if err == nil {
			_ = resp.Body.Close()
		}
		var got *Error
		if !errors.As(err, &got) || got.Status != r.status || got.Text == "" {
			t.Errorf("%s %s %.60s = %v, want status %d", r.method, r.path, r.body, err, r.status)
		}
	}
	select {
	case call := <-d.calls:
		t.Errorf("the daemon is told %q", call)
	default:
	}
}

func TestEachSideSeesTheOtherGo(t *testing.T) {
	socket, d := socketPath(t), newDaemon()
	stopServer := start(t, socket, d)
	c := newClient(t, socket)
	pushed := make(chan struct{}, 10)
	lost := make(chan struct{}, 10)
	stopWatch := watch(t, c, func(ctx context.Context) {
		if err := c.Renew(ctx, example()); err != nil {
			t.Errorf("Renew: %v", err)
		}
		pushed <- struct{}{}
		<-ctx.Done()
		lost <- struct{}{}
	})
	d.want(t, "here")
	d.want(t, "renew "+example().String())
	await(t, pushed, "push")

	stopServer() // the daemon restarts
	await(t, lost, "loss of the daemon")
	d.want(t, "gone")
	d = newDaemon()
	start(t, socket, d)
	d.want(t, "here")
	d.want(t, "renew "+example().String())
	await(t, pushed, "push to the new daemon")

	c.Resync()
	await(t, lost, "end of the watch")
	await(t, pushed, "push after Resync")
	// The end of the old watch may be noticed after the new one came: no news then.
	d.wantAmong(t, "here", "gone")
	d.want(t, "renew "+example().String())
	stopWatch() // the agent goes
	d.want(t, "gone")
}

func await(t *testing.T, c <-chan struct{}, what string) {
	t.Helper()
	select {
	case <-c:
	case <-time.After(limit):
		t.Fatalf("no %s", what)
	}
}

// A new agent takes the old one's place; the old one's end is no news then.
func TestNewWatchReplacesOld(t *testing.T) {
	socket, d := socketPath(t), newDaemon()
	start(t, socket, d)
	stopOld := watch(t, newClient(t, socket), func(context.Context) {})
	d.want(t, "here")
	stopNew := watch(t, newClient(t, socket), func(context.Context) {})
	d.want(t, "here")
	stopOld()
	if err := newClient(t, socket).Release(t.Context(), example()); err != nil {
		t.Fatal(err)
	}
	d.want(t, "release "+example().String())
	stopNew()
	d.want(t, "gone")
}

func TestPublishWaitsForTheDaemon(t *testing.T) {
	socket, d := socketPath(t), newDaemon()
	c := newClient(t, socket)
	done := make(chan error, 1)
	go func() { done <- c.Publish(t.Context(), example()) }()
	time.Sleep(3 * firstPause)
	start(t, socket, d)
	d.want(t, "publish "+example().String())
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestWithoutDaemon(t *testing.T) {
	socket := socketPath(t)
	c := newClient(t, socket)
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	begin := time.Now()
	err := c.Publish(ctx, example())
	if err == nil || !strings.Contains(err.Error(), socket) || !strings.Contains(err.Error(), "portolan status") {
		t.Errorf("Publish = %v, want an error that names the socket and what to do", err)
	}
	if refusal, ok := errors.AsType[*Error](err); ok {
		t.Errorf("Publish = %#v, want no *Error", refusal)
	}
	if took := time.Since(begin); took > 5*200*time.Millisecond {
		t.Errorf("Publish takes %v", took)
	}
	if err := c.Unpublish(t.Context(), example()); err != nil {
		t.Errorf("Unpublish = %v: its listener went with the daemon", err)
	}
	if err := c.Release(t.Context(), example()); err == nil {
		t.Error("Release reports success")
	}
}

// What the agent no longer waits for is taken back.
func TestAbandonedPublishIsUndone(t *testing.T) {
	socket, d := socketPath(t), newDaemon()
	d.hold = make(chan struct{})
	start(t, socket, d)
	c := newClient(t, socket)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- c.Publish(ctx, example()) }()
	d.want(t, "publish "+example().String())
	cancel()
	if err := <-done; err == nil {
		t.Error("an abandoned Publish succeeds")
	}
	time.Sleep(100 * time.Millisecond) // the server sees the connection close
	close(d.hold)
	d.want(t, "unpublish "+example().String())
}
