package daemon

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/portolan-net/portolan/internal/agent"
	"github.com/portolan-net/portolan/internal/portolan"
	"github.com/portolan-net/portolan/internal/publish"
	"github.com/portolan-net/portolan/internal/system"
)

// How often the host's ports are looked at: all of them, and whether those that
// were in use are free again, which somebody may wait for.
const (
	busyLook = time.Second
	freeLook = busyLook / 5

	// The kernel looks at each connection of the computer. So that a busy one does
	// not pay for this, all looks together take a hundredth of the time at most.
	lookShare   = 100
	longestRest = 10 * time.Second

	// namedLife is how long the ports that a starting container names are looked at:
	// the engine publishes them within.
	namedLife = 5 * time.Second
)

// busyPorts keeps the agent informed of the ports that the host uses of those
// that the engine chooses from: of the random ones, and of the ranges that starting
// containers name. There is no event to wait for.
type busyPorts struct {
	*daemon
	table *publish.Table
	told  []portolan.Port // what the agent knows; nil for nothing
	agent chan struct{}   // a new one has come
	named chan namedPorts // by a container that is about to start
	valid []namedPorts    // of them, the latest
}

// namedPorts are what one container names.
type namedPorts struct {
	ports []system.PortRange
	until time.Time
	told  chan struct{} // closed when the agent knows of them
}

func newBusyPorts(d *daemon, table *publish.Table) *busyPorts {
	b := &busyPorts{daemon: d, table: table, agent: make(chan struct{}, 1), named: make(chan namedPorts)}
	d.busy.Store(b)
	return b
}

// prepare returns when the agent knows what the host uses of the ports that a
// starting container names, and of the random ones if it leaves some to the engine.
// From a range the engine then chooses one that the host does not use. A port that is named alone has no placeholder meanwhile, so that it
// is our docker-proxy that fails, and says who holds it.
func (b *busyPorts) prepare(ctx context.Context, ports []system.PortRange, random bool) {
	chosen := b.engineConfig().RandomPorts
	ports = slices.DeleteFunc(ports, func(r system.PortRange) bool { return r.Size() == 1 && !chosen.Contains(r.First) })
	if len(ports) == 0 && !random {
		return
	}
	n := namedPorts{ports: ports, until: time.Now().Add(namedLife), told: make(chan struct{})}
	select {
	case b.named <- n:
	case <-ctx.Done():
		return
	}
	select {
	case <-n.told:
	case <-ctx.Done():
	}
}

// tellAgain says that an agent has come, which knows nothing.
func (b *busyPorts) tellAgain() {
	select {
	case b.agent <- struct{}{}:
	default: // it is on its way
	}
}

// run returns when ctx ends.
func (b *busyPorts) run(ctx context.Context) {
	look := time.NewTicker(freeLook)
	defer look.Stop()
	var next time.Time // when to look at all
	for {
		select {
		case <-ctx.Done():
			return
		case <-b.agent:
			b.told = nil
			b.tell(ctx, b.look())
		case n := <-b.named:
			b.valid = append(b.valid, n)
			b.tell(ctx, b.look())
			close(n.told)
		case now := <-look.C:
			if !now.Before(next) {
				b.tell(ctx, b.look())
				next = now.Add(rest(time.Since(now)))
			} else if free := func(p portolan.Port) bool { return !publish.Taken(p) }; slices.ContainsFunc(b.told, free) {
				b.tell(ctx, slices.DeleteFunc(slices.Clone(b.told), free))
			}
		}
	}
}

// rest is the time from the beginning of one look at all ports, which took that
// long, to the next.
func rest(took time.Duration) time.Duration {
	return min(max(busyLook, lookShare*took), longestRest)
}

// look finds the busy ports; none when they can't be found.
func (b *busyPorts) look() (all []portolan.Port) {
	ranges, alone := b.ranges(time.Now())
	for _, r := range ranges {
		busy, err := b.table.Busy(r)
		if err != nil {
			b.Log.Warn("ports of the host are not known", "error", err)
		}
		all = append(all, busy...)
	}
	all = slices.DeleteFunc(all, func(p portolan.Port) bool { return alone[p.Host.Port()] })
	slices.SortFunc(all, func(a, b portolan.Port) int { return strings.Compare(a.String(), b.String()) })
	return slices.Compact(all)
}

// ranges are those that the engine chooses from now, and the ports of them that a
// starting container names alone.
func (b *busyPorts) ranges(now time.Time) (ranges []system.PortRange, alone map[uint16]bool) {
	b.valid = slices.DeleteFunc(b.valid, func(n namedPorts) bool { return now.After(n.until) })
	ranges, alone = []system.PortRange{b.engineConfig().RandomPorts}, map[uint16]bool{}
	for _, n := range b.valid {
		for _, r := range n.ports {
			if r.Size() == 1 {
				alone[r.First] = true
			} else {
				ranges = append(ranges, r)
			}
		}
	}
	return ranges, alone
}

// tell informs the agent of what has changed. One that does not answer is told
// at the next look, or when it comes.
func (b *busyPorts) tell(ctx context.Context, busy []portolan.Port) {
	if b.told != nil && slices.Equal(b.told, busy) || !b.heardAgent() {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, statusTimeout)
	defer cancel()
	if err := agent.SetBusyPorts(ctx, b.Profile.SharedDir(), busy); err != nil {
		b.Log.Debug("agent does not take the host's ports", "error", err)
		b.told = nil
		return
	}
	b.told = append([]portolan.Port{}, busy...)
}
