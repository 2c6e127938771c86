package agent

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"

	"github.com/portolan-net/portolan/internal/hostnet"
	"github.com/portolan-net/portolan/internal/portolan"
)

// SetHostPorts tells the agent behind sharedDir which ports of the host's
// loopback containers on the machine's own network shall reach on theirs. It
// returns when they do; with soon, a container that is about to start is counted.
func SetHostPorts(ctx context.Context, sharedDir string, ports []portolan.Listener, soon bool) error {
	text, err := json.Marshal(hostPorts{ports, soon})
	if err != nil {
		return fmt.Errorf("tell the host's services: %w", err)
	}
	return post(ctx, sharedDir, "/v1/host-ports", "tell the host's services", bytes.NewReader(text))
}

type hostPorts struct {
	Ports []portolan.Listener `json:"ports"`
	Soon  bool                `json:"soon,omitempty"`
}

// takeHostPorts answers SetHostPorts.
func takeHostPorts(w *hostnet.Watch) func(*http.ServeMux) {
	return func(mux *http.ServeMux) {
		mux.HandleFunc("POST /v1/host-ports", func(answer http.ResponseWriter, r *http.Request) {
			var body hostPorts
			if err := json.NewDecoder(http.MaxBytesReader(answer, r.Body, maxConfig)).Decode(&body); err != nil {
				http.Error(answer, err.Error(), http.StatusBadRequest)
				return
			}
			w.SetHostPorts(r.Context(), body.Ports, body.Soon)
		})
	}
}
