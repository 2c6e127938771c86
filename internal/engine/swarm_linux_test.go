package engine

import (
	"encoding/json"
	"testing"

	"github.com/portolan-net/portolan/internal/portolan"
)

// In swarm mode dockerd does not start with live-restore, whatever the user says.
func TestSwarmExcludesLiveRestore(t *testing.T) {
	for _, swarm := range []bool{false, true} {
		text, err := Layout{Link: portolan.DefaultLink(), Swarm: swarm}.DaemonJSON(map[string]any{"live-restore": true})
		if err != nil {
			t.Fatal(err)
		}
		var got struct {
			LiveRestore bool `json:"live-restore"`
		}
		if err := json.Unmarshal(text, &got); err != nil {
			t.Fatal(err)
		}
		if got.LiveRestore == swarm {
			t.Errorf("swarm mode %v: live-restore is %v", swarm, got.LiveRestore)
		}
	}
}
