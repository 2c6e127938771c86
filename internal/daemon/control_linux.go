package daemon

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"sync"
	"time"

	"github.com/portolan-net/portolan/internal/agentlink"
)

// control is the control API. It is there from the first moment to the last,
// so that a stop can be asked for, and answered, at any time.
type control struct {
	server *http.Server
	served sync.WaitGroup
}

// startControl serves the control API until Close.
func (d *daemon) startControl() (*control, error) {
	listener, err := listenSocket(d.Profile.ControlSocket())
	if err != nil {
		return nil, err
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/status", func(w http.ResponseWriter, r *http.Request) {
		answer(w, http.StatusOK, d.status(r.Context()), d.Log)
	})
	d.servePorts(mux)
	d.serveNames(mux)
	mux.HandleFunc("GET /v1/route", d.serveRoute)
	d.serveConnect(mux)
	d.serveForwards(mux)
	mux.HandleFunc("POST /v1/down", func(w http.ResponseWriter, r *http.Request) {
		// The caller may go away; what was begun is finished.
		if err := d.Down(context.WithoutCancel(r.Context())); err != nil {
			answer(w, http.StatusInternalServerError, map[string]string{"error": err.Error()}, d.Log)
			return
		}
		answer(w, http.StatusOK, struct{}{}, d.Log)
	})
	mux.HandleFunc("POST /v1/settings", d.serveSettings)
	mux.HandleFunc("POST /v1/settings/check", d.serveCheck)
	mux.HandleFunc("POST /v1/release", func(w http.ResponseWriter, _ *http.Request) {
		answer(w, http.StatusOK, struct{}{}, d.Log)
		d.end(errLeave)
	})
	c := &control{server: &http.Server{Handler: mux, ReadHeaderTimeout: time.Second}}
	c.served.Go(func() {
		if err := c.server.Serve(agentlink.OwnersOnly(newSpareListener(listener), d.Log)); !errors.Is(err, http.ErrServerClosed) {
			d.Log.Error("serve control socket", "err", err)
		}
	})
	return c, nil
}

// closeTimeout bounds how long the last answers may take.
const closeTimeout = 2 * time.Second

// Close lets the requests under way be answered first.
func (c *control) Close(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), closeTimeout)
	defer cancel()
	_ = c.server.Shutdown(ctx) // what is left then ends with the process
	c.served.Wait()
}

func answer(w http.ResponseWriter, code int, body any, log *slog.Logger) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	if err := json.NewEncoder(w).Encode(body); err != nil {
		log.Debug("answer control request", "err", err)
	}
}

// listenSocket listens on a unix socket that only its owner may use, in place
// of whatever an earlier daemon left there.
func listenSocket(path string) (*net.UnixListener, error) {
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	listener, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", path, err)
	}
	if err := os.Chmod(path, 0o600); err != nil {
		_ = listener.Close()
		return nil, err
	}
	return listener, nil
}
