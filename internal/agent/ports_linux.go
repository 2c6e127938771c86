package agent

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"

	"github.com/portolan-net/portolan/internal/portolan"
	"github.com/portolan-net/portolan/internal/system"
)

// randomPorts is what the host sets: guest.RandomPorts has it.
type randomPorts interface {
	Set(ports system.PortRange) system.PortRange
	Busy(ports []portolan.Port)
}

// maxPorts bounds a list of ports: that of a host which uses every one of them.
const maxPorts = 16 << 20

// SetBusyPorts tells the agent behind sharedDir which ports the host uses, all of
// them, so that the engine does not choose them for -P.
func SetBusyPorts(ctx context.Context, sharedDir string, ports []portolan.Port) error {
	text, err := json.Marshal(ports)
	if err != nil {
		return fmt.Errorf("tell busy ports: %w", err)
	}
	return post(ctx, sharedDir, "/v1/busy-ports", "tell busy ports", bytes.NewReader(text))
}

// takeBusyPorts answers SetBusyPorts.
func takeBusyPorts(take func([]portolan.Port)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		var ports []portolan.Port
		err := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxPorts)).Decode(&ports)
		if err == nil {
			err = checkPorts(ports)
		}
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		take(ports)
	}
}

func checkPorts(ports []portolan.Port) error {
	for _, port := range ports {
		if !port.Host.IsValid() || port.Host.Port() == 0 || port.Proto != portolan.TCP && port.Proto != portolan.UDP {
			return fmt.Errorf("no port: %s", port)
		}
	}
	return nil
}
