package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// socketName is the agent's own socket in the shared directory.
const socketName = "agent.sock"

// serveShutdown lets the host ask for the engine's orderly end: POST
// /v1/shutdown answers when dockerd has stopped its containers and itself; and
// for a connection out of the machine: GET /v1/probe?target=HOST:PORT.
func serveShutdown(ctx context.Context, sharedDir string, shutdown func(context.Context) error, log *slog.Logger) error {
	path := filepath.Join(sharedDir, socketName)
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	listener, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return fmt.Errorf("listen on %s: %w", path, err)
	}
	if err := os.Chmod(path, 0o600); err != nil {
		return errors.Join(err, listener.Close())
	}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /v1/shutdown", func(w http.ResponseWriter, r *http.Request) {
		if err := shutdown(r.Context()); err != nil {
			log.Warn("stop engine", "err", err)
			http.Error(w, err.Error(), http.StatusInternalServerError)
		}
	})
	mux.HandleFunc("GET /v1/probe", answerProbe)
	server := &http.Server{Handler: mux, ReadHeaderTimeout: time.Second}
	stop := context.AfterFunc(ctx, func() { _ = server.Close() })
	defer stop()
	if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve %s: %w", path, err)
	}
	return nil
}

// Shutdown asks the agent behind sharedDir, as the host sees it, to stop the
// engine with its containers; each gets its own stop signal and time-out.
func Shutdown(ctx context.Context, sharedDir string) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://agent/v1/shutdown", http.NoBody)
	if err != nil {
		return err
	}
	response, err := agentClient(sharedDir).Do(request)
	if err != nil {
		return fmt.Errorf("ask agent to stop the engine: %w", err)
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(io.LimitReader(response.Body, 1024)) // only for the message
		return fmt.Errorf("stop engine: %s", strings.TrimSpace(string(text)))
	}
	return nil
}

// agentClient speaks to the agent's own socket.
func agentClient(sharedDir string) *http.Client {
	return &http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", filepath.Join(sharedDir, socketName))
		},
		DisableKeepAlives: true,
	}}
}
