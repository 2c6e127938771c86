package agent

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"

	"github.com/portolan-net/portolan/internal/guest"
	"github.com/portolan-net/portolan/internal/portolan"
)

// Outside is the host that is connected: portolan connect.
type Outside struct {
	Addresses portolan.Pair   `json:"addresses"`
	Ports     []portolan.Port `json:"ports"` // of containers, which it may reach; nil for all
}

// SetOutside tells the agent behind sharedDir what the connected host may reach.
func SetOutside(ctx context.Context, sharedDir string, o Outside) error {
	text, err := json.Marshal(o)
	if err != nil {
		return fmt.Errorf("tell what the host may reach: %w", err)
	}
	return post(ctx, sharedDir, "/v1/outside", "tell what the host may reach", bytes.NewReader(text))
}

// routeOutside answers SetOutside.
func routeOutside(mux *http.ServeMux) {
	mux.HandleFunc("POST /v1/outside", func(w http.ResponseWriter, r *http.Request) {
		var o Outside
		err := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxPorts)).Decode(&o)
		if err == nil {
			err = checkPorts(o.Ports)
		}
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		if err := guest.LimitOutside(o.Addresses, o.Ports); err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
		}
	})
}
