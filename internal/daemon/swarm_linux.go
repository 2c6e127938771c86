package daemon

import (
	"context"

	"github.com/portolan-net/portolan/internal/agent"
)

// beforeSwarm is enginesocket.Config.BeforeSwarm. Where it fails the engine itself
// says to its client what is in the way.
func (d *daemon) beforeSwarm(ctx context.Context) {
	d.Log.Info("swarm mode: live-restore is switched off")
	if err := agent.PrepareSwarm(ctx, d.Profile.SharedDir()); err != nil {
		d.Log.Warn("swarm mode", "err", err)
	}
}
