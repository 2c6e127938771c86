package daemon

import (
	"context"
	"slices"
	"time"

	"github.com/portolan-net/portolan/internal/agent"
	"github.com/portolan-net/portolan/internal/portolan"
	"github.com/portolan-net/portolan/internal/publish"
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
)

// busyPorts keeps the agent informed of the ports that the host uses of those
// that the engine chooses from. There is no event to wait for.
type busyPorts struct {
	*daemon
	table *publish.Table
	told  []portolan.Port // what the agent knows; nil for nothing
	agent chan struct{}   // a new one has come
}

func newBusyPorts(d *daemon, table *publish.Table) *busyPorts {
	return &busyPorts{daemon: d, table: table, agent: make(chan struct{}, 1)}
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
func (b *busyPorts) look() []portolan.Port {
	busy, err := b.table.Busy(b.engineConfig().RandomPorts)
	if err != nil {
		b.Log.Warn("ports of the host are not known", "error", err)
	}
	return busy
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
