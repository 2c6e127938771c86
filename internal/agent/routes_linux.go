package agent

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"net/netip"

	"github.com/portolan-net/portolan/internal/guest"
	"github.com/portolan-net/portolan/internal/portolan"
)

// SetHostRoutes tells the agent behind sharedDir all networks that the host
// reaches: the engine shall not choose them for its own.
func SetHostRoutes(ctx context.Context, sharedDir string, networks []netip.Prefix) error {
	text, err := json.Marshal(networks)
	if err != nil {
		return fmt.Errorf("tell the host's networks: %w", err)
	}
	return post(ctx, sharedDir, "/v1/host-routes", "tell the host's networks", bytes.NewReader(text))
}

// takeHostRoutes answers SetHostRoutes.
func takeHostRoutes(link portolan.Link, log *slog.Logger) func(*http.ServeMux) {
	return func(mux *http.ServeMux) {
		mux.HandleFunc("POST /v1/host-routes", func(w http.ResponseWriter, r *http.Request) {
			var networks []netip.Prefix
			err := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxConfig)).Decode(&networks)
			if err == nil {
				err = guest.ReserveHostRoutes(link, networks)
			}
			if err != nil {
				log.Warn("reserve networks of the host", "err", err)
				http.Error(w, err.Error(), http.StatusInternalServerError)
			}
		})
	}
}
