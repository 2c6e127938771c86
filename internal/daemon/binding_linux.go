package daemon

import (
	"context"

	"github.com/portolan-net/portolan/internal/publish"
	"github.com/portolan-net/portolan/internal/settings"
)

// moveListeners has what is published moved, if the new values say so; before is
// nil for the first ones.
func (d *daemon) moveListeners(before *settings.Values) {
	if before == nil || before.PortBinding == d.values.Load().PortBinding {
		return
	}
	select {
	case d.rebind <- struct{}{}:
	default: // it is about to be done
	}
}

// followBinding moves listeners until ctx ends.
func (d *daemon) followBinding(ctx context.Context, tables ...*publish.Table) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-d.rebind:
			for _, table := range tables {
				table.Rebind(ctx)
			}
		}
	}
}
