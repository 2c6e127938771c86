package agent

import (
	"context"
	"net/netip"
	"sync"

	"github.com/portolan-net/portolan/internal/agentlink"
	"github.com/portolan-net/portolan/internal/api"
)

// report tells the daemon the latest of two things: the engine's state and the
// machine's networks. A daemon that comes later is told all; while none is
// there nothing is kept but the latest.
type report struct {
	daemon *agentlink.Client

	mu       sync.Mutex // guards what follows
	engine   api.Engine
	networks []netip.Prefix
	changed  chan struct{} // closed and replaced at each change
}

func newReport(daemon *agentlink.Client) *report {
	return &report{daemon: daemon, changed: make(chan struct{})}
}

func (r *report) setEngine(e api.Engine) { r.set(func() { r.engine = e }) }

func (r *report) setNetworks(networks []netip.Prefix) { r.set(func() { r.networks = networks }) }

func (r *report) set(change func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	change()
	close(r.changed)
	r.changed = make(chan struct{})
}

func (r *report) latest() (api.Engine, []netip.Prefix, <-chan struct{}) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.engine, r.networks, r.changed
}

// push tells one daemon everything, and again after each change, until ctx
// ends with the connection to it. A message that does not arrive means that the
// daemon is going: the next one is told anew.
func (r *report) push(ctx context.Context) {
	for {
		engine, networks, changed := r.latest()
		if networks != nil {
			_ = r.daemon.SetNetworks(ctx, networks)
		}
		_ = r.daemon.SetEngine(ctx, engine)
		select {
		case <-ctx.Done():
			return
		case <-changed:
		}
	}
}
