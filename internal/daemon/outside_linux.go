package daemon

import (
	"context"
	"sync/atomic"
	"time"

	"github.com/portolan-net/portolan/internal/agent"
	"github.com/portolan-net/portolan/internal/api"
	"github.com/portolan-net/portolan/internal/portolan"
	"github.com/portolan-net/portolan/internal/settings"
)

// outside keeps the agent informed of what a host that is connected may reach of
// containers. What it was told stays in force when daemon and agent die.
type outside struct {
	*daemon
	published func() []api.Port
	wake      chan struct{}
	limited   atomic.Bool // in the machine
}

func newOutside(d *daemon, published func() []api.Port) *outside {
	return &outside{daemon: d, published: published, wake: make(chan struct{}, 1)}
}

// changed says that the agent may have to be told something else.
func (o *outside) changed() {
	select {
	case o.wake <- struct{}{}:
	default: // it is about to be
	}
}

// outsideAgain is the pause before the agent is told again which did not answer.
const outsideAgain = time.Second

// run returns when ctx ends.
func (o *outside) run(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-o.wake:
		}
		if err := o.tell(ctx); err != nil && ctx.Err() == nil {
			o.Log.Debug("agent does not take what the host may reach; it is told again", "err", err)
			time.AfterFunc(outsideAgain, o.changed)
		}
	}
}

func (o *outside) tell(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, statusTimeout)
	defer cancel()
	ports := o.ports()
	host := agent.Outside{Addresses: o.link().Outside(), Ports: ports}
	if err := agent.SetOutside(ctx, o.Profile.SharedDir(), host); err != nil {
		return err
	}
	o.limited.Store(ports != nil)
	return nil
}

// ports are those that the host may reach; nil for all.
func (o *outside) ports() []portolan.Port {
	if o.values.Load().Connect != settings.ConnectPublished {
		return nil
	}
	ports := []portolan.Port{}
	for _, p := range o.published() {
		if p.Error == "" {
			ports = append(ports, portolan.Port{Proto: p.Proto, Host: p.Container})
		}
	}
	return ports
}
