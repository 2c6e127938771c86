package daemon

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/portolan-net/portolan/internal/portolan"
	"github.com/portolan-net/portolan/internal/spec"
)

// formerLinks are those that containers which run may know.
func (d *daemon) formerLinks() []portolan.Link {
	var links []portolan.Link
	for _, former := range d.told().Former {
		links = append(links, former.Link)
	}
	return links
}

// forgetLinks follows the engine's containers, and gives former links back to the
// host when nobody knows them any more.
func (d *daemon) forgetLinks(ctx context.Context, containers *containers) {
	for len(d.told().Former) > 0 {
		err := containers.events(ctx, func() { d.forgetUnknown(ctx) })
		d.Log.Debug("engine tells no events", "err", err)
		select {
		case <-ctx.Done():
			return
		case <-time.After(eventsPause):
		}
	}
}

func (d *daemon) forgetUnknown(ctx context.Context) {
	starts, err := d.starts(ctx)
	if err != nil {
		d.Log.Debug("list containers of former links", "err", err)
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	next := d.spec
	next.Former = slices.DeleteFunc(slices.Clone(next.Former), func(f spec.FormerLink) bool { return len(knowing(f, starts)) == 0 })
	if len(next.Former) == len(d.spec.Former) || next.Moving {
		return
	}
	if err := d.setSpecLocked(next); err != nil {
		d.Log.Warn("forget former networks of the machine", "err", err)
	}
}

// starts says when each container that runs was started, by name.
func (d *daemon) starts(ctx context.Context) (map[string]time.Time, error) {
	all, err := (&containers{socket: d.Profile.EngineSocket()}).list(ctx)
	if err != nil {
		return nil, err
	}
	starts := map[string]time.Time{}
	for _, c := range all {
		if c.State != "running" && c.State != "paused" {
			continue
		}
		started, err := startOf(ctx, d.Profile.EngineSocket(), c)
		if err != nil {
			return nil, err
		}
		starts[c.name()] = started
	}
	return starts, nil
}

// knowing lists the containers that may know a former link.
func knowing(f spec.FormerLink, starts map[string]time.Time) []string {
	var names []string
	for name, started := range starts {
		if f.Known(started) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// pendingFormer says who knows the machine's network by addresses of before.
func (d *daemon) pendingFormer(ctx context.Context) []string {
	former := d.told().Former
	if len(former) == 0 {
		return nil
	}
	starts, err := d.starts(ctx)
	if err != nil {
		return nil
	}
	var found []string
	for _, f := range former {
		if names := knowing(f, starts); len(names) > 0 {
			found = append(found, fmt.Sprintf("these containers know the machine's network as %s and %s, where resolver, gateway and host answer until they are restarted: docker restart %s",
				f.Link.V4, f.Link.V6, strings.Join(names, " ")))
		}
	}
	return found
}
