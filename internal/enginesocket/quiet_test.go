package enginesocket

import (
	"bufio"
	"bytes"
	"context"
	"io"
	"log/slog"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
)

// quietTest is a Proxy before an engine that has one stream that says nothing and
// ends only when the engine does, one answer that comes when it is allowed to, and
// many that come at once.
type quietTest struct {
	*Proxy

	asked, answer chan struct{}
	log           *bytes.Buffer
}

func newQuietTest(t *testing.T) *quietTest {
	t.Helper()
	t.Cleanup(func() { goleak.VerifyNone(t, goleak.IgnoreCurrent()) })
	q := &quietTest{asked: make(chan struct{}), answer: make(chan struct{}), log: new(bytes.Buffer)}
	ended := make(chan struct{})
	mux := http.NewServeMux()
	mux.HandleFunc("POST /v1.50/containers/x/attach", func(w http.ResponseWriter, r *http.Request) {
		conn, _, err := w.(http.Hijacker).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer conn.Close()
		_, _ = io.WriteString(conn, "HTTP/1.1 101 UPGRADED\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n")
		<-ended
	})
	mux.HandleFunc("/wait", func(http.ResponseWriter, *http.Request) {
		q.asked <- struct{}{}
		<-q.answer
	})
	mux.HandleFunc("/", func(http.ResponseWriter, *http.Request) {})
	l, err := new(net.ListenConfig).Listen(t.Context(), "unix", filepath.Join(t.TempDir(), "e"))
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: mux}
	var serving sync.WaitGroup
	serving.Go(func() { _ = server.Serve(l) })
	t.Cleanup(func() {
		_ = server.Close()
		close(ended)
		serving.Wait()
	})
	q.Proxy = New(Config{Engine: l.Addr().String(), Log: slog.New(slog.NewTextHandler(q.log, &slog.HandlerOptions{Level: slog.LevelDebug}))})
	return q
}

// dialTest returns a client's connection, and what is closed when the session of it
// has ended.
func (q *quietTest) dialTest(t *testing.T) (net.Conn, <-chan struct{}) {
	t.Helper()
	ours, theirs, err := socketPair(t)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	ended := make(chan struct{})
	go func() {
		q.Serve(ctx, theirs)
		close(ended)
	}()
	t.Cleanup(func() {
		_ = ours.Close()
		cancel()
		<-ended
	})
	return ours, ended
}

// get asks once on conn.
func get(conn net.Conn, path string) error {
	if _, err := io.WriteString(conn, "GET "+path+" HTTP/1.1\r\nHost: a\r\n\r\n"); err != nil {
		return err
	}
	response, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		return err
	}
	return response.Body.Close()
}

// attach makes a stream of a new connection.
func (q *quietTest) attach(t *testing.T) (net.Conn, <-chan struct{}) {
	t.Helper()
	conn, ended := q.dialTest(t)
	_, err := io.WriteString(conn, "POST /v1.50/containers/x/attach?stream=1 HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: tcp\r\nContent-Length: 0\r\n\r\n")
	if err == nil {
		_, err = readHead(bufio.NewReader(conn))
	}
	if err != nil {
		t.Fatal(err)
	}
	return conn, ended
}

// waitBriefly is WhileQuiet that gives up sooner.
func (q *quietTest) waitBriefly(t *testing.T, limit time.Duration) bool {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	ran, err := q.WhileQuiet(ctx, func() error { return nil })
	if err != nil {
		t.Error(err)
	}
	return ran
}

// Nobody who waits for an answer is cut off, and requests wait while the engine
// starts again.
func TestWhileQuiet(t *testing.T) {
	q := newQuietTest(t)
	done := make(chan error)
	first, _ := q.dialTest(t)
	go func() { done <- get(first, "/wait") }()
	<-q.asked
	if q.waitBriefly(t, time.Second) {
		t.Error("the engine is started again although somebody waits for its answer")
	}
	q.answer <- struct{}{}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	restarting, restarted, ran := make(chan struct{}), make(chan struct{}), make(chan bool)
	go func() {
		was, _ := q.WhileQuiet(t.Context(), func() error {
			close(restarting)
			<-restarted
			return nil
		})
		ran <- was
	}()
	select {
	case <-restarting:
	case <-time.After(5 * quiet):
		t.Fatal("no restart although the answer is long given")
	}
	later, _ := q.dialTest(t)
	go func() { done <- get(later, "/later") }()
	select {
	case err := <-done:
		t.Fatalf("a request does not wait for the restart: %v", err)
	case <-time.After(100 * time.Millisecond):
	}
	close(restarted)
	if err := <-done; err != nil || !<-ran {
		t.Errorf("after the restart: %v", err)
	}
}

// Clients that come one after the other leave moments, one of which is enough.
func TestQuietBetweenClients(t *testing.T) {
	q := newQuietTest(t)
	conn, ended := q.attach(t)
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		for {
			time.Sleep(300 * time.Millisecond)
			_ = conn.Close()
			<-ended
			time.Sleep(5 * time.Millisecond)
			select {
			case <-stop:
				return
			default:
				conn, ended = q.attach(t)
			}
		}
	}()
	if !q.waitBriefly(t, 20*time.Second) {
		t.Error("no restart between two clients")
	}
	close(stop)
	<-stopped
}

// A client that asks again and again on one connection waits for the restart, and
// not the restart for it.
func TestQuietBetweenRequests(t *testing.T) {
	q := newQuietTest(t)
	conn, _ := q.dialTest(t)
	if err := get(conn, "/first"); err != nil {
		t.Fatal(err)
	}
	stop, stopped := make(chan struct{}), make(chan error)
	go func() {
		for {
			select {
			case <-stop:
				stopped <- nil
				return
			case <-time.After(time.Second):
				if err := get(conn, "/again"); err != nil {
					stopped <- err
					return
				}
			}
		}
	}()
	if !q.waitBriefly(t, 20*time.Second) {
		t.Error("no restart between two requests")
	}
	close(stop)
	if err := <-stopped; err != nil {
		t.Errorf("the client that asks again and again: %v", err)
	}
}

// The log says for whom a restart waits, and not at every look. What the query
// says is nobody's business.
func TestQuietNamesWhoIsBusy(t *testing.T) {
	q := newQuietTest(t)
	q.attach(t)
	for range 2 {
		if q.waitBriefly(t, 3*quietLook) {
			t.Error("the engine is started again although somebody is attached")
		}
	}
	const want = `request="POST /containers/x/attach" since=`
	if log := q.log.String(); strings.Count(log, want) != 1 || strings.Contains(log, "stream=1") {
		t.Errorf("want %s once in the log:\n%s", want, log)
	}
}

// Whoever has gone away is not waited for, though the stream that he left has
// nothing to say and so does not end.
func TestQuietWhenStreamIsLeft(t *testing.T) {
	q := newQuietTest(t)
	conn, ended := q.attach(t)
	if err := conn.(*net.UnixConn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	select {
	case <-ended:
		t.Fatalf("a client that still listens has been cut off: %s", q.log)
	case <-time.After(2 * goneLook):
	}
	_ = conn.Close()
	if !q.waitBriefly(t, 10*goneLook) {
		t.Error("a restart waits for a client that has gone away")
	}
}

// An answer that goes on and on, as that of docker stats, has requests held once, and
// not again and again.
func TestRequestsAreHeldInVainOnce(t *testing.T) {
	s, began := new(session), time.Now()
	p := &Proxy{sessions: map[*session]bool{s: true}}
	s.work.Store(&work{since: began})
	looks := func(answered, now time.Duration) (held bool) {
		s.answered.Store(moment(began.Add(answered)))
		if p.hold(began.Add(now)) == nil {
			t.Errorf("after %v nobody is busy", now)
		}
		return p.held != nil
	}
	if !looks(0, rest) {
		t.Error("requests are not held while an answer rests")
	}
	if looks(time.Second, time.Second) {
		t.Error("requests are held although the answer goes on")
	}
	if looks(time.Second, 2*time.Second) {
		t.Error("requests are held again at once")
	}
	if later := time.Second + holdAgain; !looks(later-rest, later) {
		t.Error("requests are never held again")
	}
	looks(holdAgain+time.Minute, holdAgain+time.Minute) // in vain
	delete(p.sessions, s)
	if p.hold(began.Add(holdAgain+2*time.Minute)) != nil || p.held == nil {
		t.Error("requests are not held during a restart")
	}
}
