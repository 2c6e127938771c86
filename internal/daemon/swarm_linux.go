package daemon

import (
	"context"
	"encoding/json"
	"io"
	"slices"

	"github.com/portolan-net/portolan/internal/agent"
	"github.com/portolan-net/portolan/internal/api"
)

// beforeSwarm is enginesocket.Config.BeforeSwarm. Where it fails the engine itself
// says to its client what is in the way.
func (d *daemon) beforeSwarm(ctx context.Context) {
	d.Log.Info("swarm mode: live-restore is switched off")
	if err := agent.PrepareSwarm(ctx, d.Profile.SharedDir()); err != nil {
		d.Log.Warn("swarm mode", "err", err)
	}
}

// service is what is shown of one of swarm's.
type service struct {
	Spec     struct{ Name string }
	Endpoint struct {
		Ports []struct {
			Protocol      string
			PublishedPort uint16
		}
	}
}

// nameServices fills in the names of services whose ports belong to no container:
// those of the routing mesh. Only a manager of a swarm knows them.
func (c *containers) nameServices(ctx context.Context, ports []api.Port) {
	if !slices.ContainsFunc(ports, func(p api.Port) bool { return p.Name == "" }) {
		return
	}
	var all []service
	ctx, cancel := context.WithTimeout(ctx, statusTimeout)
	defer cancel()
	if err := askEngine(ctx, c.socket, "/services", func(body io.Reader) error { return json.NewDecoder(body).Decode(&all) }); err != nil {
		return // no swarm, mostly
	}
	for _, s := range all {
		for _, published := range s.Endpoint.Ports {
			for i, p := range ports {
				if p.Name == "" && p.Host.Port() == published.PublishedPort && p.Proto.String() == published.Protocol {
					ports[i].Name = s.Spec.Name
				}
			}
		}
	}
}
