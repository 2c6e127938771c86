package daemon

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/netip"

	"github.com/portolan-net/portolan/internal/settings"
)

// pendingSubnets names the subnets that somebody chose and the machine does not
// have, and how it comes to them.
func (d *daemon) pendingSubnets(ctx context.Context, v *settings.Values) []string {
	var found []string
	for _, subnet := range []struct {
		key        string
		fixed      bool
		wanted, in netip.Prefix
	}{{settings.KeySubnet4, v.FixedV4, v.Link.V4, d.spec.Link.V4}, {settings.KeySubnet6, v.FixedV6, v.Link.V6, d.spec.Link.V6}} {
		if subnet.fixed && subnet.wanted != subnet.in {
			found = append(found, fmt.Sprintf("%s %s: the machine is on %s until: portolan down && portolan up", subnet.key, subnet.wanted, subnet.in))
		}
	}
	if len(found) > 0 && inSwarm(ctx, d.Profile.EngineSocket()) {
		found = append(found, "the engine is in a swarm, whose members know it by an address of the present subnet: before the machine gets another one, type: docker swarm leave")
	}
	return found
}

// inSwarm reports whether the engine belongs to a swarm, or tries to.
func inSwarm(ctx context.Context, engineSocket string) bool {
	var info struct {
		Swarm struct{ LocalNodeState string }
	}
	err := askEngine(ctx, engineSocket, "/info", func(r io.Reader) error { return json.NewDecoder(r).Decode(&info) })
	state := info.Swarm.LocalNodeState
	return err == nil && state != "" && state != "inactive"
}
