package agent

import (
	"context"
	"net/netip"
	"slices"
	"sync"

	"github.com/portolan-net/portolan/internal/agentlink"
	"github.com/portolan-net/portolan/internal/api"
	"github.com/portolan-net/portolan/internal/portolan"
)

// report tells the daemon the latest of three things: the engine's state, the
// machine's networks, and what waits on its own network. A daemon that comes later is told all; while none is
// there nothing is kept but the latest.
type report struct {
	daemon *agentlink.Client

	mu       sync.Mutex // guards what follows
	engine   api.Engine
	networks []netip.Prefix
	host     *portolan.HostNetwork
	changed  chan struct{} // closed and replaced at each change
}

func newReport(daemon *agentlink.Client) *report {
	return &report{daemon: daemon, changed: make(chan struct{})}
}

func (r *report) setEngine(e api.Engine) { r.set(func() { r.engine = e }) }

func (r *report) setNetworks(networks []netip.Prefix) { r.set(func() { r.networks = networks }) }

func (r *report) setHostNetwork(n portolan.HostNetwork) { r.set(func() { r.host = &n }) }

func (r *report) set(change func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	change()
	close(r.changed)
	r.changed = make(chan struct{})
}

func (r *report) latest() (api.Engine, []netip.Prefix, *portolan.HostNetwork, <-chan struct{}) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.engine, r.networks, r.host, r.changed
}

// push tells one daemon everything, and then each change, until ctx ends with the
// connection to it. A message that does not arrive means that the daemon is going:
// the next one is told anew.
func (r *report) push(ctx context.Context) {
	var told struct {
		engine   *api.Engine
		networks []netip.Prefix
		host     *portolan.HostNetwork
	}
	for {
		engine, networks, host, changed := r.latest()
		if !slices.Equal(networks, told.networks) && r.daemon.SetNetworks(ctx, networks) == nil {
			told.networks = networks
		}
		if (told.engine == nil || engine != *told.engine) && r.daemon.SetEngine(ctx, engine) == nil {
			told.engine = &engine
		}
		if host != told.host && r.daemon.SetHostNetwork(ctx, *host) == nil {
			told.host = host
		}
		select {
		case <-ctx.Done():
			return
		case <-changed:
		}
	}
}
