package server

import (
	"context"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httputil"
	"strings"
	"sync"
	"time"

	"github.com/portolan-net/portolan/internal/datapath"
	"github.com/portolan-net/portolan/internal/portolan"
	"github.com/portolan-net/portolan/internal/proxy"
	"github.com/portolan-net/portolan/internal/relay"
)

// What a client of the forward proxy may take.
const (
	headTimeout = 30 * time.Second // for the head of a request
	idleTimeout = 5 * time.Minute  // between two requests
	maxHead     = 256 << 10        // bytes of a request's head
)

// ServeTCP serves one client of http.docker.internal:3128 until either side has
// had enough, and closes conn. A server for each connection: what is kept alive
// behind it belongs to this client and to nobody else.
func (s *Server) ServeTCP(ctx context.Context, conn datapath.Conn, flow portolan.Flow) {
	f := &forward{client: client{server: s, addr: flow.Src.Addr()}}
	f.serve(ctx, conn)
}

// serve answers the requests of one connection until it has ended.
func (f *forward) serve(ctx context.Context, conn datapath.Conn) {
	defer f.close()
	listener := &oneListener{conn: &notedConn{Conn: conn, closed: make(chan struct{})}}
	server := &http.Server{
		Handler:           f,
		ReadHeaderTimeout: headTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHead,
		BaseContext:       func(net.Listener) context.Context { return ctx },
		ErrorLog:          slog.NewLogLogger(f.server.cfg.Log.Handler(), slog.LevelDebug), // about clients
	}
	defer context.AfterFunc(ctx, func() { _ = server.Close() })()
	_ = server.Serve(listener) // ends when conn is closed
	f.requests.Wait()
}

// forward is one client's connection to the forward proxy.
type forward struct {
	client
	origin   uint16 // of a transparent flow: its port; requests are in origin form
	requests sync.WaitGroup

	mu         sync.Mutex
	transports map[proxy.Route]*http.Transport // guarded by mu
}

func (f *forward) close() {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, t := range f.transports {
		t.CloseIdleConnections()
	}
}

// ServeHTTP answers one request.
func (f *forward) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	f.requests.Add(1)
	defer f.requests.Done()
	port := uint16(80)
	if f.origin != 0 {
		port = f.origin
		if r.Method != http.MethodConnect && !r.URL.IsAbs() {
			r.URL.Scheme, r.URL.Host = "http", r.Host
		}
	}
	switch {
	case r.Method == http.MethodConnect:
		f.connect(w, r)
	case !r.URL.IsAbs():
		http.Error(w, "portolan: this is a forward proxy: want CONNECT HOST:PORT or a request for http://HOST/...", http.StatusBadRequest)
	case !strings.EqualFold(r.URL.Scheme, "http"):
		http.Error(w, "portolan: scheme "+r.URL.Scheme+": this proxy takes http://..., and CONNECT for everything else", http.StatusBadRequest)
	default:
		f.exchange(w, r, port)
	}
}

// connect opens a tunnel and hands both connections to the relay.
func (f *forward) connect(w http.ResponseWriter, r *http.Request) {
	to, err := parseTarget(r.Host, 0)
	if err != nil {
		http.Error(w, "portolan: "+err.Error(), http.StatusBadRequest)
		return
	}
	far, err := f.reach(r.Context(), to)
	if err != nil {
		f.refuseTunnel(w, to, err)
		return
	}
	near, err := hijack(w, far)
	if err != nil {
		f.server.cfg.Log.Debug("tunnel lost", "client", f.addr, "to", to.Address(), "error", err)
		_ = far.Close()
		return
	}
	began := time.Now()
	stats := relay.TCP(r.Context(), near, far)
	f.server.cfg.Log.Debug("tunnel ended", "client", f.addr, "to", to.Address(),
		"sent", stats.AToB, "received", stats.BToA, "duration", time.Since(began))
}

// hijack takes the client's connection from the server, tells the client that
// its tunnel stands, and passes on what it has sent ahead.
func hijack(w http.ResponseWriter, far datapath.Conn) (datapath.Conn, error) {
	conn, buffered, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return nil, err
	}
	near := conn.(*notedConn)
	defer near.note() // the relay closes the connection itself
	early, err := buffered.Reader.Peek(buffered.Reader.Buffered())
	if err == nil {
		err = near.SetDeadline(time.Time{})
	}
	if err == nil {
		_, err = io.WriteString(near, "HTTP/1.1 200 Connection established\r\n\r\n")
	}
	if err == nil && len(early) > 0 {
		_, err = far.Write(early)
	}
	if err != nil {
		_ = near.Conn.Close()
		return nil, err
	}
	return near.Conn, nil
}

// refuse answers a request that can't be carried.
func (f *forward) refuse(w http.ResponseWriter, to proxy.Destination, err error) {
	code, text := f.report(to, err)
	http.Error(w, text, code)
}

// refuseTunnel answers a CONNECT that can't be carried.
func (f *forward) refuseTunnel(w http.ResponseWriter, to proxy.Destination, err error) {
	code, text := f.report(to, err)
	conn, _, err := http.NewResponseController(w).Hijack()
	if err != nil { // never of HTTP/1
		http.Error(w, text, code)
		return
	}
	tell(conn.(*notedConn), code, text)
}

func (f *forward) report(to proxy.Destination, err error) (code int, text string) {
	_, group := f.policy()
	code, text = report(err, group)
	f.server.cfg.Log.Debug("refuse request", "client", f.addr, "to", to.Address(), "status", code, "error", err)
	return code, text
}

// exchange passes one request and its answer on.
func (f *forward) exchange(w http.ResponseWriter, r *http.Request, port uint16) {
	to, err := parseTarget(r.URL.Host, port)
	if err != nil {
		http.Error(w, "portolan: "+err.Error(), http.StatusBadRequest)
		return
	}
	r.URL.Host = to.Address()
	if to.Port == 80 {
		r.URL.Host = strings.TrimSuffix(r.URL.Host, ":80")
	}
	to.URL = r.URL.String()
	pass := &httputil.ReverseProxy{
		Rewrite:       rewrite,
		Transport:     &exchanger{forward: f, to: to},
		FlushInterval: -1,
		ModifyResponse: func(answer *http.Response) error {
			answer.Header.Add("Via", via)
			return nil
		},
		ErrorLog:     slog.NewLogLogger(f.server.cfg.Log.Handler(), slog.LevelDebug), // about clients
		ErrorHandler: func(w http.ResponseWriter, _ *http.Request, err error) { f.refuse(w, to, err) },
	}
	// Else the server would read the request's body to its end before an answer's
	// head, and close it under the transport, which would close its connection.
	_ = http.NewResponseController(w).EnableFullDuplex() // HTTP/1.1 can
	pass.ServeHTTP(w, r)
}

// via names us in the messages that we pass on (RFC 9110, section 7.6.3).
const via = "1.1 http.docker.internal"

// rewrite undoes what ReverseProxy does for reverse proxies and a forward proxy
// must not: the client's own headers and query stay.
func rewrite(r *httputil.ProxyRequest) {
	r.Out.Host = r.In.Host
	r.Out.Header.Add("Via", via)
	r.Out.URL.RawQuery = r.In.URL.RawQuery
	r.Out.Trailer = r.In.Trailer // which the server fills when the body has ended
	for _, name := range []string{"Forwarded", "X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto"} {
		if values, ok := r.In.Header[name]; ok {
			r.Out.Header[name] = values
		}
	}
}
