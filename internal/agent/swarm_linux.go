package agent

import (
	"context"
	"log/slog"
	"net/http"
)

// PrepareSwarm asks the agent behind sharedDir to make dockerd take swarm mode. It
// returns when `docker swarm init` can be sent.
func PrepareSwarm(ctx context.Context, sharedDir string) error {
	return post(ctx, sharedDir, "/v1/swarm", "prepare swarm mode", http.NoBody)
}

// takeSwarm answers PrepareSwarm.
func takeSwarm(prepare func(context.Context) error, log *slog.Logger) func(*http.ServeMux) {
	return func(mux *http.ServeMux) {
		mux.HandleFunc("POST /v1/swarm", func(w http.ResponseWriter, r *http.Request) {
			if err := prepare(r.Context()); err != nil {
				log.Warn("swarm mode", "err", err)
				http.Error(w, err.Error(), http.StatusInternalServerError)
			}
		})
	}
}
