package enginesocket

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
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

// fakeEngine answers like dockerd: what it got, or a stream.
func fakeEngine(t *testing.T) http.Handler {
	t.Helper()
	mux := http.NewServeMux()
	hijack := func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Query().Has("refuse") {
			http.Error(w, "no such container", http.StatusNotFound)
			return
		}
		_, _ = io.Copy(io.Discard, r.Body)
		conn, rw, err := w.(http.Hijacker).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer conn.Close()
		line := "HTTP/1.1 200 OK\r\nContent-Type: application/vnd.docker.raw-stream\r\n\r\n"
		if r.Header.Get("Upgrade") != "" {
			line = "HTTP/1.1 101 UPGRADED\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n"
		}
		_, _ = io.WriteString(conn, line)
		_, _ = io.Copy(conn, rw) // echo, to the client's end
		_, _ = io.WriteString(conn, "bye")
	}
	mux.HandleFunc("POST /containers/x/attach", hijack)
	mux.HandleFunc("POST /exec/x/start", hijack)
	mux.HandleFunc("GET /images/{image}/json", func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, `{"Config":{"Env":["NO_PROXY=image"]}}`)
	})
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return
		}
		_ = json.NewEncoder(w).Encode(map[string]string{"uri": r.RequestURI, "body": string(body)})
	})
	return mux
}

// start returns the path of a socket that leads through a Proxy to a handler.
func start(t *testing.T, engine http.Handler, extra Extra) string {
	t.Helper()
	t.Cleanup(func() { goleak.VerifyNone(t, goleak.IgnoreCurrent()) })
	dir := t.TempDir()
	listen := func(name string) net.Listener {
		l, err := new(net.ListenConfig).Listen(t.Context(), "unix", filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		return l
	}
	inner, outer := listen("e"), listen("u")
	var protocols http.Protocols
	protocols.SetHTTP1(true)
	protocols.SetUnencryptedHTTP2(true)
	server := &http.Server{Handler: engine, Protocols: &protocols}
	var open sync.WaitGroup
	open.Go(func() { _ = server.Serve(inner) })
	ctx, cancel := context.WithCancel(t.Context())
	proxy := New(Config{Engine: inner.Addr().String(), Extra: func(context.Context) Extra { return extra }, Log: slog.New(slog.DiscardHandler)})
	open.Go(func() {
		for {
			conn, err := outer.Accept()
			if err != nil {
				return
			}
			open.Go(func() { proxy.Serve(ctx, conn.(Conn)) })
		}
	})
	t.Cleanup(func() {
		cancel()
		_ = outer.Close()
		_ = server.Close()
		open.Wait()
	})
	return outer.Addr().String()
}

func dialTest(t *testing.T, path string) *net.UnixConn {
	t.Helper()
	conn, err := new(net.Dialer).DialContext(t.Context(), "unix", path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	if err := conn.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	return conn.(*net.UnixConn)
}

// ask sends one request on a connection and decodes the fake engine's answer.
func ask(t *testing.T, conn net.Conn, in *bufio.Reader, request string) (int, map[string]string) {
	t.Helper()
	if _, err := io.WriteString(conn, request); err != nil {
		t.Fatal(err)
	}
	response, err := http.ReadResponse(in, nil)
	if err != nil {
		t.Fatalf("after %.80q: %v", request, err)
	}
	defer response.Body.Close()
	got := map[string]string{}
	text, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	_ = json.Unmarshal(text, &got) // an error's text is none
	return response.StatusCode, got
}

// On one connection, one request after the other, each with another framing.
func TestKeptConnection(t *testing.T) {
	path := start(t, fakeEngine(t), Extra{Env: []string{"HTTP_PROXY=p", "NO_PROXY=n"}, BuildArgs: []string{"HTTP_PROXY=p"}})
	conn := dialTest(t, path)
	in := bufio.NewReader(conn)
	const create = `{"Image":"i"}`
	for range 2 {
		for request, want := range map[string]map[string]string{
			"GET /info HTTP/1.1\r\nHost: a\r\n\r\n":                                                               {"uri": "/info"},
			"POST /load HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc":                                      {"uri": "/load", "body": "abc"},
			"POST /load HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n1\r\nd\r\n0\r\n\r\n": {"uri": "/load", "body": "abcd"},
			"POST /v1.51/build?t=x HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\ntar":                           {"uri": "/v1.51/build?buildargs=%7B%22HTTP_PROXY%22%3A%22p%22%7D&t=x", "body": "tar"},
			fmt.Sprintf("POST /v1.51/containers/create HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n%s", len(create), create): {
				"uri": "/v1.51/containers/create", "body": `{"Env":["HTTP_PROXY=p"],"Image":"i"}` + "\n",
			},
			fmt.Sprintf("POST /containers/create HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n", len(create), create): {
				"uri": "/containers/create", "body": `{"Env":["HTTP_PROXY=p"],"Image":"i"}` + "\n",
			},
		} {
			if code, got := ask(t, conn, in, request); code != http.StatusOK || got["uri"] != want["uri"] || got["body"] != want["body"] {
				t.Errorf("%.60q: %d %v, want %v", request, code, got, want)
			}
		}
		if code, _ := ask(t, conn, in, "POST /containers/x/attach?refuse HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n"); code != http.StatusNotFound {
			t.Errorf("attach to nothing: %d", code)
		}
	}
	for _, refused := range []string{
		"POST /load HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
		"POST /load HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nnonsense\r\n",
	} {
		conn := dialTest(t, path)
		if code, got := ask(t, conn, bufio.NewReader(conn), refused); code != http.StatusBadRequest {
			t.Errorf("%.60q: %d %v", refused, code, got)
		}
	}
}

func TestSwitch(t *testing.T) {
	path := start(t, fakeEngine(t), Extra{})
	for _, request := range []string{
		"POST /v1.51/containers/x/attach?stdin=1 HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n",
		"POST /containers/x/attach HTTP/1.1\r\nHost: a\r\n\r\n",
		"POST /exec/x/start HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: tcp\r\nContent-Length: 2\r\n\r\n{}",
	} {
		request = strings.Replace(request, "/v1.51", "", 1)
		conn := dialTest(t, path)
		in := bufio.NewReader(conn)
		if code, _ := ask(t, conn, in, "GET /info HTTP/1.1\r\nHost: a\r\n\r\n"); code != http.StatusOK {
			t.Fatal(code)
		}
		if _, err := io.WriteString(conn, request+"early"); err != nil {
			t.Fatal(err)
		}
		if _, err := readHead(in); err != nil {
			t.Fatal(err)
		}
		big := bytes.Repeat([]byte("0123456789abcdef"), 1<<16)
		go func() {
			_, _ = conn.Write(big)
			_ = conn.CloseWrite()
		}()
		got, err := io.ReadAll(in)
		if want := "early" + string(big) + "bye"; err != nil || string(got) != want {
			t.Errorf("%.40q: %d bytes come back of %d, %v", request, len(got), len(want), err)
		}
	}
}

// A call of BuildKit's, by either way to HTTP/2: the message that begins a build
// has the argument, others stay as they are, trailers arrive.
func TestSolve(t *testing.T) {
	calls := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Trailer", "Grpc-Status")
		_ = http.NewResponseController(w).Flush()
		body, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		_, _ = w.Write(body)
		w.Header().Set("Grpc-Status", "0")
	})
	var plain http.Protocols
	plain.SetUnencryptedHTTP2(true)
	engine := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/grpc" {
			calls(w, r)
			return
		}
		conn, rw, err := w.(http.Hijacker).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		_, _ = io.WriteString(conn, "HTTP/1.1 101 UPGRADED\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n")
		l := newOneListener(buffered{conn.(Conn), rw.Reader})
		server := &http.Server{Handler: calls, Protocols: &plain, ConnState: func(_ net.Conn, s http.ConnState) {
			if s == http.StateClosed {
				_ = l.Close()
			}
		}}
		_ = server.Serve(l)
	})
	path := start(t, engine, Extra{BuildArgs: []string{"HTTP_PROXY=p"}})
	message := appendField(nil, 2, "dockerfile.v0")
	added := appendField(append([]byte{}, message...), 3, option("build-arg:HTTP_PROXY", "p"))
	for _, upgrade := range []bool{true, false} {
		conn := dialTest(t, path)
		in := bufio.NewReader(conn)
		if upgrade {
			_, err := io.WriteString(conn, "POST /grpc HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n")
			if err == nil {
				_, err = readHead(in)
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		transport := &http.Transport{Protocols: &plain, DialContext: newOnceDialer(buffered{conn, in}).dial}
		client := &http.Client{Transport: transport}
		for call, want := range map[string][]byte{
			"/moby.buildkit.v1.frontend.LLBBridge/Solve": framed(added),
			"/moby.buildkit.v1.Control/Status":           framed(message),
		} {
			request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://x"+call, bytes.NewReader(framed(message)))
			if err != nil {
				t.Fatal(err)
			}
			response, err := client.Do(request)
			if err != nil {
				t.Fatal(err)
			}
			got, err := io.ReadAll(response.Body)
			_ = response.Body.Close()
			if err != nil || !bytes.Equal(got, want) || response.Trailer.Get("Grpc-Status") != "0" {
				t.Errorf("upgrade %v, %s: %q, %v, trailer %v", upgrade, call, got, err, response.Trailer)
			}
		}
		transport.CloseIdleConnections()
	}
}

// A client that goes away in the middle of an answer that never ends takes the
// engine's request with it.
func TestClientGoesAway(t *testing.T) {
	gone := make(chan struct{})
	path := start(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, "event")
		_ = http.NewResponseController(w).Flush()
		<-r.Context().Done()
		close(gone)
	}), Extra{})
	conn := dialTest(t, path)
	if _, err := io.WriteString(conn, "GET /events HTTP/1.1\r\nHost: a\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	if _, err := readHead(bufio.NewReader(conn)); err != nil {
		t.Fatal(err)
	}
	_ = conn.Close()
	select {
	case <-gone:
	case <-time.After(5 * time.Second):
		t.Error("the engine still answers")
	}
}

// socketPair connects two sockets.
func socketPair(t *testing.T) (ours net.Conn, theirs Conn, err error) {
	t.Helper()
	l, err := new(net.ListenConfig).Listen(t.Context(), "unix", filepath.Join(t.TempDir(), "s"))
	if err != nil {
		return nil, nil, err
	}
	defer l.Close()
	if ours, err = new(net.Dialer).DialContext(t.Context(), "unix", l.Addr().String()); err != nil {
		return nil, nil, err
	}
	conn, err := l.Accept()
	if err != nil {
		return nil, nil, err
	}
	return ours, conn.(Conn), nil
}

// The shortest of requests is not waited on for more.
func TestShortRequest(t *testing.T) {
	conn := dialTest(t, start(t, fakeEngine(t), Extra{}))
	if code, got := ask(t, conn, bufio.NewReader(conn), "GET / HTTP/1.0\r\n\r\n"); code != http.StatusOK || got["uri"] != "/" {
		t.Errorf("%d %v", code, got)
	}
}
