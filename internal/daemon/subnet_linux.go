package daemon

import (
	"context"
	"encoding/json"
	"fmt"
	"io"

	"github.com/portolan-net/portolan/internal/settings"
	"github.com/portolan-net/portolan/internal/system"
)

// networkChanged tells who wants to know that the host's network has changed.
func (d *daemon) networkChanged(names *system.NameWatcher) func() {
	return func() {
		names.NetworkChanged()
		for _, changed := range []chan struct{}{d.routesChanged, d.addrsChanged} {
			select {
			case changed <- struct{}{}:
			default: // there is one to come
			}
		}
	}
}

// freeSubnets has the machine look for clashes anew when somebody's choice of a
// subnet has gone.
func (d *daemon) freeSubnets(before *settings.Values) {
	now := d.values.Load()
	if before == nil || before.FixedV4 == now.FixedV4 && before.FixedV6 == now.FixedV6 {
		return
	}
	select {
	case d.routesChanged <- struct{}{}:
	default: // there is one to come
	}
}

// moveAsWanted moves the machine where the settings want it, and reports whether
// it did. What keeps the machine where it is stays pending.
func (d *daemon) moveAsWanted(ctx context.Context) (bool, error) {
	link, err := d.wantedLink(d.values.Load())
	if err != nil {
		return false, err
	}
	if now := d.told(); now.Link == link && !now.Moving {
		return false, nil
	}
	if d.mayMove(ctx, link) != nil {
		return false, nil
	}
	return true, d.move(ctx, link)
}

// pendingSubnets says that the machine is not where the settings want it, and how
// it comes there.
func (d *daemon) pendingSubnets(ctx context.Context, v *settings.Values) []string {
	wanted, err := d.wantedLink(v)
	now := d.told()
	switch {
	case err != nil || now.Link == wanted && !now.Moving:
		return nil
	case now.Moving && now.Link == wanted:
		return []string{"the machine's network is moving; if that does not end: portolan settings apply"}
	}
	found := []string{fmt.Sprintf("%s, %s: the machine is on %s and %s, and moves to %s and %s by: portolan settings apply",
		settings.KeySubnet4, settings.KeySubnet6, now.Link.V4, now.Link.V6, wanted.V4, wanted.V6)}
	if err := d.mayMove(ctx, wanted); err != nil {
		found = append(found, err.Error())
	}
	return found
}

// engineInfo is what the engine says of itself.
type engineInfo struct {
	LiveRestoreEnabled bool
	Swarm              struct{ LocalNodeState string }
}

func askInfo(ctx context.Context, engineSocket string) (info engineInfo, err error) {
	err = askEngine(ctx, engineSocket, "/info", func(r io.Reader) error { return json.NewDecoder(r).Decode(&info) })
	return info, err
}

// inSwarm reports whether the engine belongs to a swarm, or tries to.
func (i engineInfo) inSwarm() bool {
	state := i.Swarm.LocalNodeState
	return state != "" && state != "inactive"
}

// swarmKeeps reports whether the machine must not move by itself: the engine is in
// a swarm, or has left it just now and would still stop its containers.
func (d *daemon) swarmKeeps(ctx context.Context) bool {
	info, err := askInfo(ctx, d.Profile.EngineSocket())
	stops := d.engineConfig().Options["live-restore"] == false // at every restart, as somebody chose
	return err == nil && (info.inSwarm() || !info.LiveRestoreEnabled && !stops)
}
