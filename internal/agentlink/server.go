package agentlink

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"time"

	"github.com/portolan-net/portolan/internal/api"
	"github.com/portolan-net/portolan/internal/portolan"
)

// Daemon is what an agent asks for. Methods are called from several goroutines;
// the texts of errors reach the user. publish.Table has the first six.
type Daemon interface {
	// Publish returns when the host's listener stands. A taken port's error
	// wraps syscall.EADDRINUSE.
	Publish(ctx context.Context, b portolan.Binding) error
	// Renew is Publish for a binding that stood before; on an error the agent
	// tries again by and by.
	Renew(ctx context.Context, b portolan.Binding) error
	// Unpublish returns when the port is free.
	Unpublish(ctx context.Context, b portolan.Binding) error
	// Release says that the engine which published b is gone and may come back.
	Release(ctx context.Context, b portolan.Binding) error
	// AgentHere comes before the first call of an agent's push, AgentGone when
	// the last agent has gone.
	AgentHere()
	AgentGone()
	SetEngine(e api.Engine)
	// SetNetworks takes the engine's subnets and the machine's addresses.
	SetNetworks(networks []netip.Prefix)
	// SetHostNetwork takes what containers on the machine's own network wait on.
	SetHostNetwork(n portolan.HostNetwork)

	Forwarder
}

const (
	headerTimeout = 5 * time.Second
	// stopTimeout is how long a stopping server waits for requests under way,
	// which take milliseconds.
	stopTimeout = 2 * time.Second
)

// Serve answers agents on l until ctx ends; l is closed then. Only processes of
// the daemon's own user and root are heard.
func Serve(ctx context.Context, l net.Listener, d Daemon, log *slog.Logger) error {
	s := &server{daemon: d, log: log}
	httpServer := &http.Server{
		Handler:           s.routes(),
		ReadHeaderTimeout: headerTimeout,
		BaseContext:       func(net.Listener) context.Context { return ctx }, // ends watches
		ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelDebug),
	}
	stopped := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(stopped)
		shutdown(ctx, httpServer)
	})
	err := httpServer.Serve(OwnersOnly(l, log))
	if stop() { // ctx lives: Serve itself gave up
		_ = httpServer.Close()
		return fmt.Errorf("serve agents on %s: %w", l.Addr(), err)
	}
	<-stopped
	s.streams.Wait() // ctx ends them
	return nil
}

func shutdown(ctx context.Context, s *http.Server) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopTimeout)
	defer cancel()
	if s.Shutdown(ctx) != nil {
		_ = s.Close()
	}
}

// OwnersOnly makes a listener on a unix socket accept processes of this process's
// own user and of root only, whatever the socket's mode.
func OwnersOnly(l net.Listener, log *slog.Logger) net.Listener {
	return &checkedListener{Listener: l, log: log}
}

// checkedListener passes on only the connections of peers that may speak.
type checkedListener struct {
	net.Listener
	log *slog.Logger
}

func (l *checkedListener) Accept() (net.Conn, error) {
	for {
		conn, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		if err = checkPeer(conn); err == nil {
			return conn, nil
		}
		l.log.Warn("socket refuses a peer", "socket", l.Addr(), "err", err)
		_ = conn.Close()
	}
}

type server struct {
	daemon Daemon
	log    *slog.Logger

	streams sync.WaitGroup // those that are carried

	mu    sync.Mutex // guards the one below, and the order of AgentHere and AgentGone
	watch int        // counts watches; the last one is in force
}

func (s *server) routes() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET "+pathWatch, s.serveWatch)
	mux.HandleFunc("POST "+pathPublish, binding(s.publish))
	mux.HandleFunc("POST "+pathRenew, binding(s.daemon.Renew))
	mux.HandleFunc("POST "+pathUnpublish, binding(s.daemon.Unpublish))
	mux.HandleFunc("POST "+pathRelease, binding(s.daemon.Release))
	mux.HandleFunc("GET "+pathListeners, s.serveListeners)
	mux.HandleFunc("POST "+pathForward, s.serveForward)
	mux.HandleFunc("PUT "+pathHostNet, s.serveHostNetwork)
	mux.HandleFunc("PUT "+pathEngine, func(w http.ResponseWriter, r *http.Request) {
		receive(w, r, func(e api.Engine) error { s.daemon.SetEngine(e); return nil })
	})
	mux.HandleFunc("PUT "+pathNetworks, func(w http.ResponseWriter, r *http.Request) {
		receive(w, r, func(n []netip.Prefix) error { s.daemon.SetNetworks(n); return nil })
	})
	return mux
}

// publish takes a port back whose agent did not wait for the answer: it has told
// the engine that the port is not published.
func (s *server) publish(ctx context.Context, b portolan.Binding) error {
	if err := s.daemon.Publish(ctx, b); err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return errors.Join(err, s.daemon.Unpublish(context.WithoutCancel(ctx), b))
	}
	return nil
}

// serveWatch holds the request open until the agent or the server goes.
func (s *server) serveWatch(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	s.watch++
	mine := s.watch
	s.daemon.AgentHere()
	s.mu.Unlock()
	s.log.Info("agent connected")
	defer func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.watch == mine {
			s.daemon.AgentGone()
			s.log.Info("agent gone")
		}
	}()
	w.WriteHeader(http.StatusOK)
	if err := http.NewResponseController(w).Flush(); err != nil {
		return
	}
	<-r.Context().Done()
}

func binding(do func(context.Context, portolan.Binding) error) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		receive(w, r, func(b portolan.Binding) error {
			if err := checkBinding(b); err != nil {
				return &Error{Status: http.StatusBadRequest, Text: err.Error()}
			}
			return do(r.Context(), b)
		})
	}
}

// receive decodes the body, does what it asks for and answers.
func receive[T any](w http.ResponseWriter, r *http.Request, do func(T) error) {
	var body T
	if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxBody)).Decode(&body); err != nil {
		refuse(w, http.StatusBadRequest, fmt.Errorf("read request %s: %w", r.URL.Path, err))
		return
	}
	err := do(body)
	var refusal *Error
	switch {
	case err == nil:
		w.WriteHeader(http.StatusNoContent)
	case errors.As(err, &refusal):
		refuse(w, refusal.Status, err)
	default:
		refuse(w, statusOf(err), err)
	}
}

func refuse(w http.ResponseWriter, status int, err error) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(errorBody{err.Error()})
}
