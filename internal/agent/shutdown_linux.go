package agent

import (
	"bytes"
	"context"
	"encoding/json"
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

	"github.com/portolan-net/portolan/internal/portolan"
	"github.com/portolan-net/portolan/internal/system"
)

// socketName is the agent's own socket in the shared directory.
const socketName = "agent.sock"

// supervisor is what the host asks for: engine.Supervisor has it.
type supervisor interface {
	Shutdown(ctx context.Context) error
	Configure(ctx context.Context, mode portolan.Mode, options map[string]any) error
	Check(ctx context.Context, mode portolan.Mode, options map[string]any) error
}

// serveHost lets the host ask for the engine's orderly end: POST /v1/shutdown
// answers when dockerd has stopped its containers and itself; for another
// configuration: POST /v1/engine with an EngineConfig answers when dockerd runs
// with it, and POST /v1/engine/check says why it would not; for the ports that the host uses: POST /v1/busy-ports with a list of
// portolan.Port; and for a connection out of the machine: GET /v1/probe?target=HOST:PORT.
// more adds what else is served.
func serveHost(ctx context.Context, sharedDir string, supervisor supervisor, random randomPorts, log *slog.Logger, more ...func(*http.ServeMux)) error {
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
		if err := supervisor.Shutdown(r.Context()); err != nil {
			log.Warn("stop engine", "err", err)
			http.Error(w, err.Error(), http.StatusInternalServerError)
		}
	})
	mux.HandleFunc("POST /v1/engine", func(w http.ResponseWriter, r *http.Request) {
		var c EngineConfig
		err := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxConfig)).Decode(&c)
		if err == nil {
			before := random.Set(c.RandomPorts)
			if err = supervisor.Configure(r.Context(), c.Mode, c.Options); err != nil {
				random.Set(before)
			}
		}
		if err != nil {
			log.Warn("configure engine", "err", err)
			http.Error(w, err.Error(), http.StatusInternalServerError)
		}
	})
	mux.HandleFunc("POST /v1/engine/check", func(w http.ResponseWriter, r *http.Request) {
		var c EngineConfig
		err := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxConfig)).Decode(&c)
		if err == nil {
			err = supervisor.Check(r.Context(), c.Mode, c.Options)
		}
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
		}
	})
	mux.HandleFunc("POST /v1/busy-ports", takeBusyPorts(random.Busy))
	mux.HandleFunc("GET /v1/probe", answerProbe)
	for _, routes := range more {
		routes(mux)
	}
	server := &http.Server{
		Handler: mux, ReadHeaderTimeout: time.Second,
		BaseContext: func(net.Listener) context.Context { return ctx }, // ends streams
	}
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
	return post(ctx, sharedDir, "/v1/shutdown", "stop engine", http.NoBody)
}

// EngineConfig is what can change about a running engine.
type EngineConfig struct {
	Mode        portolan.Mode    `json:"mode"`
	Options     map[string]any   `json:"options"`
	RandomPorts system.PortRange `json:"randomPorts,omitzero"`
}

// maxConfig bounds an EngineConfig: that of a settings file.
const maxConfig = 1 << 20

// ConfigureEngine asks the agent behind sharedDir to restart dockerd with another
// configuration. It returns when dockerd answers again, or says why it does not
// take it; then nothing has changed.
func ConfigureEngine(ctx context.Context, sharedDir string, c EngineConfig) error {
	return postConfig(ctx, sharedDir, "/v1/engine", "configure engine", c)
}

// CheckEngine says why dockerd would not take a configuration.
func CheckEngine(ctx context.Context, sharedDir string, c EngineConfig) error {
	return postConfig(ctx, sharedDir, "/v1/engine/check", "check the engine's options", c)
}

func postConfig(ctx context.Context, sharedDir, path, doing string, c EngineConfig) error {
	text, err := json.Marshal(c)
	if err != nil {
		return fmt.Errorf("%s: %w", doing, err)
	}
	return post(ctx, sharedDir, path, doing, bytes.NewReader(text))
}

func post(ctx context.Context, sharedDir, path, doing string, body io.Reader) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://agent"+path, body)
	if err != nil {
		return err
	}
	response, err := agentClient(sharedDir).Do(request)
	if err != nil {
		return fmt.Errorf("%s: ask agent: %w", doing, err)
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(io.LimitReader(response.Body, 1024)) // only for the message
		return fmt.Errorf("%s: %s", doing, strings.TrimSpace(string(text)))
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
