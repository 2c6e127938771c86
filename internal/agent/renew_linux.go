package agent

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"syscall"
	"time"
)

// Renew ends the agent behind sharedDir, so that PID 1 starts another one, which
// reads anew what the machine is told. The engine goes on. It returns when that
// agent can be asked.
func Renew(ctx context.Context, sharedDir string) error {
	if err := awaitAgent(ctx, sharedDir); err != nil {
		return err
	}
	if err := post(ctx, sharedDir, "/v1/renew", "renew agent", http.NoBody); err != nil {
		return err
	}
	return awaitAgent(ctx, sharedDir)
}

// renewPoll is how often a new agent is looked for; it comes after half a second.
const renewPoll = 20 * time.Millisecond

// awaitAgent returns when an agent listens.
func awaitAgent(ctx context.Context, sharedDir string) error {
	for {
		conn, err := new(net.Dialer).DialContext(ctx, "unix", filepath.Join(sharedDir, socketName))
		if err == nil {
			return conn.Close()
		}
		if !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, syscall.ECONNREFUSED) {
			return fmt.Errorf("wait for agent: %w", err)
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for agent: %w", ctx.Err())
		case <-time.After(renewPoll):
		}
	}
}

// takeRenew answers Renew. The socket goes before the answer: whoever dials it
// from then on meets the next agent.
func takeRenew(sharedDir string, end func(), log *slog.Logger) func(*http.ServeMux) {
	return func(mux *http.ServeMux) {
		mux.HandleFunc("POST /v1/renew", func(w http.ResponseWriter, _ *http.Request) {
			if err := os.Remove(filepath.Join(sharedDir, socketName)); err != nil {
				log.Warn("begin anew", "err", err)
				http.Error(w, err.Error(), http.StatusInternalServerError)
				return
			}
			log.Info("the agent begins anew, on request")
			w.WriteHeader(http.StatusOK)
			_ = http.NewResponseController(w).Flush() // its asker may have gone
			end()
		})
	}
}
