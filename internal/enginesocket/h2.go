package enginesocket

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httputil"
	"sync"
	"sync/atomic"
)

// h2Preface begins a connection in HTTP/2 (RFC 9113, 3.4).
const h2Preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

// speakH2 carries a client that speaks HTTP/2 from its first byte.
func (s *session) speakH2(ctx context.Context) error {
	if _, err := s.proxy.begin(ctx, s, work{name: "HTTP/2"}); err != nil {
		return err
	}
	s.retire()
	if err := s.dial(ctx); err != nil {
		return err
	}
	s.switched.Store(true)
	if len(s.proxy.extra(ctx).BuildArgs) == 0 {
		go s.answer(s.engine, s.retired, s.ended)
		if err := s.raw(); !errors.Is(err, errSwitched) {
			return err
		}
		return nil
	}
	close(s.ended)
	return s.relayH2(ctx, bufio.NewReaderSize(stamped{s.engine, &s.answered}, bufferSize))
}

// relayH2 is a server of HTTP/2 to the client and a client of it to the engine,
// on the session's two connections, until either ends.
func (s *session) relayH2(ctx context.Context, fromEngine *bufio.Reader) error {
	var plain http.Protocols
	plain.SetUnencryptedHTTP2(true)
	engine := newOnceDialer(buffered{s.engine, fromEngine})
	transport := &http.Transport{
		Protocols: &plain, DialContext: engine.dial, DisableCompression: true,
		HTTP2: &http.HTTP2Config{StrictMaxConcurrentRequests: true},
	}
	defer transport.CloseIdleConnections()
	quiet := slog.NewLogLogger(s.proxy.config.Log.Handler(), slog.LevelDebug)
	toEngine := &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.Out.URL.Scheme, r.Out.URL.Host, r.Out.Host = "http", "engine", r.In.Host
		},
		Transport: transport, FlushInterval: -1, ErrorLog: quiet, ErrorHandler: refuseCall,
	}
	client := newOneListener(buffered{s.client, s.in})
	server := &http.Server{
		Protocols: &plain, ErrorLog: quiet, ReadHeaderTimeout: questionTimeout,
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			s.addToSolve(ctx, r)
			toEngine.ServeHTTP(w, r)
		}),
		ConnState: func(_ net.Conn, state http.ConnState) {
			if state == http.StateClosed || state == http.StateHijacked {
				_ = client.Close()
			}
		},
	}
	stop := context.AfterFunc(ctx, func() { _ = server.Close() })
	defer stop()
	defer server.Close()
	if err := server.Serve(client); !errors.Is(err, net.ErrClosed) && !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// refuseCall tells a gRPC client that the engine is gone, in its own words.
func refuseCall(w http.ResponseWriter, _ *http.Request, err error) {
	const unavailable = "14" // UNAVAILABLE of gRPC's status codes
	w.Header().Set("Content-Type", "application/grpc")
	w.Header().Set("Grpc-Status", unavailable)
	w.Header().Set("Grpc-Message", "reach engine: "+err.Error())
	w.WriteHeader(http.StatusOK)
}

// addToSolve adds build arguments to a call that begins a build.
func (s *session) addToSolve(ctx context.Context, r *http.Request) {
	fields, ok := solveCalls[r.URL.Path]
	if !ok {
		return
	}
	message, err := io.ReadAll(io.LimitReader(r.Body, maxAnswer+1))
	rest := io.Reader(r.Body)
	if err == nil && len(message) <= maxAnswer {
		message = addToMessage(message, fields, s.proxy.extra(ctx).BuildArgs)
	}
	if err != nil {
		rest = failing{err}
	}
	r.Body = readCloser{io.MultiReader(bytes.NewReader(message), rest), r.Body}
	r.ContentLength = -1
	r.Header.Del("Content-Length")
}

type readCloser struct {
	io.Reader
	io.Closer
}

// failing is a reader with nothing but an error.
type failing struct{ err error }

func (f failing) Read([]byte) (int, error) { return 0, f.err }

// buffered is a connection of which something has been read already.
type buffered struct {
	Conn

	r *bufio.Reader
}

func (b buffered) Read(p []byte) (int, error) { return b.r.Read(p) }

// onceDialer gives its connection away once. Who asks again has come before the
// transport knows that it can share that one, and waits until it does, or until
// the connection has ended.
type onceDialer struct {
	net.Conn

	given atomic.Bool
	once  sync.Once
	ended chan struct{}
}

func newOnceDialer(conn net.Conn) *onceDialer {
	return &onceDialer{Conn: conn, ended: make(chan struct{})}
}

func (d *onceDialer) dial(ctx context.Context, _, _ string) (net.Conn, error) {
	if d.given.CompareAndSwap(false, true) {
		return d, nil
	}
	select {
	case <-d.ended:
		return nil, errors.New("the engine has ended the connection")
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (d *onceDialer) Close() error {
	d.once.Do(func() { close(d.ended) })
	return d.Conn.Close()
}

// oneListener accepts one connection, and then waits to be closed.
type oneListener struct {
	conn   net.Conn
	accept chan net.Conn
	once   sync.Once
	closed chan struct{}
}

func newOneListener(conn net.Conn) *oneListener {
	l := &oneListener{conn: conn, accept: make(chan net.Conn, 1), closed: make(chan struct{})}
	l.accept <- conn
	return l
}

func (l *oneListener) Accept() (net.Conn, error) {
	select {
	case conn := <-l.accept:
		return conn, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

func (l *oneListener) Close() error {
	l.once.Do(func() { close(l.closed) })
	return nil
}

func (l *oneListener) Addr() net.Addr { return l.conn.LocalAddr() }
