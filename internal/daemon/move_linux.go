package daemon

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/portolan-net/portolan/internal/agent"
	"github.com/portolan-net/portolan/internal/portolan"
	"github.com/portolan-net/portolan/internal/settings"
	"github.com/portolan-net/portolan/internal/spec"
)

// A machine that runs moves to other subnets.
//
// Theory of operation. All parts know the machine's link from their start on, so
// they start again, in this order:
//
//  1. The new link is written into the machine's description, marked as moving.
//  2. The services of this daemon end, and with them every open connection.
//  3. The helper puts router and machine on the link, and the services start there.
//  4. The agent begins anew, with the description as it is now.
//  5. dockerd restarts with the new addresses, its containers go on. The mark goes.
//
// A daemon that dies in between leaves the mark; the next one begins with 3.
//
// What runs keeps what is written in its files: the resolver, host.docker.internal.
// So the link's gateway, resolver and host are also found at the places that they
// had before, until no container runs that was started then. Everything else on
// the former link is the host's again.

// errMove ends the services for the next round of them.
var errMove = errors.New("the machine's network moves")

// movement is what a daemon knows of its machine's moves; daemon.mu guards it.
type movement struct {
	again context.CancelCauseFunc // ends this round of services
	done  chan struct{}           // closed when the last move has ended; nil before the first
	err   error                   // how it ended
}

// serve runs all services until one fails or ctx ends: one round of them after
// each move of the machine's network.
func (d *daemon) serve(ctx context.Context) error {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return d.followReports(ctx) })
	group.Go(func() error {
		defer stop()
		for {
			round, again := context.WithCancelCause(ctx)
			d.mu.Lock()
			d.movement.again = again
			d.mu.Unlock()
			err := d.serveRound(round)
			moves := errors.Is(context.Cause(round), errMove) && ctx.Err() == nil
			again(nil)
			if !moves {
				return err
			}
		}
	})
	return group.Wait()
}

// told is what the machine is told now.
func (d *daemon) told() spec.Machine {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.spec
}

func (d *daemon) link() portolan.Link { return d.told().Link }

// setSpecLocked notes what the machine is told from now on.
func (d *daemon) setSpecLocked(next spec.Machine) error {
	if err := spec.Write(next); err != nil {
		return err
	}
	d.spec = next
	return nil
}

// taken are the networks that the machine's link must not overlap: the host's and
// those of the engine.
func (d *daemon) taken() ([]netip.Prefix, error) {
	routes, err := hostRoutes(d.Profile)
	if err != nil {
		return nil, err
	}
	return append(routes, d.engineNetworks()...), nil
}

// engineNetworks are the machine's networks but for its link.
func (d *daemon) engineNetworks() []netip.Prefix {
	host, link := d.host.Load(), d.link()
	if host == nil {
		return nil
	}
	return slices.DeleteFunc(slices.Clone(host.networks()), func(p netip.Prefix) bool { return p == link.V4 || p == link.V6 })
}

// wantedLink is the link that the settings ask for, given the networks around.
func (d *daemon) wantedLink(v *settings.Values) (portolan.Link, error) {
	taken, err := d.taken()
	if err != nil {
		return portolan.Link{}, err
	}
	return chooseLink(*v, d.link(), taken)
}

// mayMove says why the machine can't move to link.
func (d *daemon) mayMove(ctx context.Context, link portolan.Link) error {
	for _, network := range d.engineNetworks() {
		if network.Overlaps(link.V4) || network.Overlaps(link.V6) {
			return fmt.Errorf("move the machine's network: the engine has a network %s, which overlaps; remove that, or choose another subnet", network)
		}
	}
	if info, err := askInfo(ctx, d.Profile.EngineSocket()); err == nil && info.inSwarm() {
		return errors.New("move the machine's network: the engine is in a swarm, whose members know it by an address of the present subnet; type: docker swarm leave, and try again")
	}
	return nil
}

// moveTimeout bounds a whole move.
const moveTimeout = 2 * engineRestart

// move puts the machine on link and returns when all of it is there. A move that
// did not come to its end is taken up again.
func (d *daemon) move(ctx context.Context, link portolan.Link) error {
	if err := d.beginMove(link); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, moveTimeout)
	defer cancel()
	d.mu.Lock()
	done := d.movement.done
	d.mu.Unlock()
	select {
	case <-done:
	case <-ctx.Done():
		return fmt.Errorf("move the machine's network: %w", ctx.Err())
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.movement.err
}

// beginMove ends this round of services; the next one is on link.
func (d *daemon) beginMove(link portolan.Link) error {
	routes, err := hostRoutes(d.Profile)
	if err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.movement.done != nil && !closed(d.movement.done) {
		return errors.New("move the machine's network: it is moving already")
	}
	if d.movement.again == nil {
		return errors.New("move the machine's network: the machine is starting; try again")
	}
	if err := d.setSpecLocked(movedSpec(d.spec, link, routes)); err != nil {
		return fmt.Errorf("move the machine's network: %w", err)
	}
	d.Log.Info("the machine's network moves", "v4", link.V4, "v6", link.V6)
	d.movement.done, d.movement.err = make(chan struct{}), nil
	d.movement.again(errMove)
	return nil
}

// movedSpec is what a machine that moves to another link is told.
func movedSpec(cfg spec.Machine, link portolan.Link, routes []netip.Prefix) spec.Machine {
	if link != cfg.Link {
		came := time.Now()
		former := []spec.FormerLink{}
		for _, f := range cfg.Former {
			if f.Link == link {
				came = f.Came // who has known it since goes on to
			} else {
				former = append(former, f)
			}
		}
		cfg.Former = append(former, spec.FormerLink{Link: cfg.Link, Came: cfg.Came})
		cfg.Link, cfg.Came = link, came
	}
	cfg.Moving = true
	cfg.HostRoutes = reserved(cfg.Former, routes)
	return cfg
}

// reserved are the networks that the engine must not choose: those of the host,
// and former links, lest containers get addresses that mean something else.
func reserved(former []spec.FormerLink, routes []netip.Prefix) []netip.Prefix {
	all := slices.Clone(routes)
	for _, f := range former {
		all = append(all, f.Link.V4, f.Link.V6)
	}
	return all
}

// tellRoutes keeps the engine from choosing networks that the host has come to have.
func (d *daemon) tellRoutes(ctx context.Context) error {
	routes, err := hostRoutes(d.Profile)
	if err != nil {
		return err
	}
	d.mu.Lock()
	next := d.spec
	next.HostRoutes = reserved(next.Former, routes)
	same := slices.Equal(next.HostRoutes, d.spec.HostRoutes)
	if !same {
		err = d.setSpecLocked(next)
	}
	d.mu.Unlock()
	if same || err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, statusTimeout)
	defer cancel()
	return agent.SetHostRoutes(ctx, d.Profile.SharedDir(), next.HostRoutes)
}

// arrivedSpec is what it is told when the engine has the link's addresses.
func arrivedSpec(cfg spec.Machine, now time.Time) spec.Machine {
	cfg.Former = slices.Clone(cfg.Former)
	for i, former := range cfg.Former {
		if former.Left.IsZero() {
			cfg.Former[i].Left = now
		}
	}
	cfg.Moving = false
	return cfg
}

// finishMove brings agent and engine to a link on which router and machine are.
func (d *daemon) finishMove(ctx context.Context) {
	if !d.told().Moving {
		return
	}
	err := d.renewAgent(ctx)
	d.mu.Lock()
	defer d.mu.Unlock()
	if err == nil {
		err = d.setSpecLocked(arrivedSpec(d.spec, time.Now()))
	}
	if err != nil && ctx.Err() == nil {
		d.Log.Error("the machine's network has not wholly moved", "err", err)
	}
	d.movement.err = err
	if d.movement.done != nil && !closed(d.movement.done) {
		close(d.movement.done)
	}
}

func (d *daemon) renewAgent(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, engineRestart)
	defer cancel()
	if err := agent.Renew(ctx, d.Profile.SharedDir()); err != nil {
		return err
	}
	return d.configureEngine(ctx, d.engineConfig())
}

// clashSettle lets a VPN finish its routes, and clients of the engine their work.
const clashSettle = 3 * time.Second

// avoidClashes moves the machine away from networks that the host comes to have,
// unless somebody chose the subnet. It waits while the engine is in a swarm, and
// while quiet says that a client of the engine would be cut off.
func (d *daemon) avoidClashes(ctx context.Context, quiet func(context.Context, func() error) (bool, error)) {
	look := time.NewTimer(clashSettle)
	defer look.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-d.routesChanged:
			look.Reset(clashSettle)
			continue
		case <-look.C:
		}
		if err := d.tellRoutes(ctx); err != nil {
			d.Log.Warn("the engine may choose networks of the host", "err", err)
		}
		link, err := d.refuge()
		if err != nil {
			d.Log.Warn("no network is left for the machine", "err", err)
			continue
		}
		if link == d.link() {
			continue
		}
		if !d.swarmKeeps(ctx) {
			_, err = quiet(ctx, func() error { return d.flee(ctx) })
		}
		if err != nil {
			d.Log.Warn("the machine's network overlaps one of the host's", "err", err)
		}
		look.Reset(clashSettle) // a move that has begun leaves nothing to do
	}
}

// flee begins a move away from the host's networks, unless the wait for a quiet
// moment has made it needless or impossible.
func (d *daemon) flee(ctx context.Context) error {
	link, err := d.refuge()
	if err != nil || link == d.link() || d.swarmKeeps(ctx) {
		return err
	}
	return d.beginMove(link)
}

// refuge is the machine's link, with another subnet in place of one that nobody
// chose and that overlaps a network of the host.
func (d *daemon) refuge() (portolan.Link, error) {
	routes, err := hostRoutes(d.Profile)
	if err != nil {
		return portolan.Link{}, err
	}
	v, present := *d.values.Load(), d.link()
	clash := func(p netip.Prefix) bool { return slices.ContainsFunc(routes, p.Overlaps) }
	moves4, moves6 := clash(present.V4) && !v.FixedV4, clash(present.V6) && !v.FixedV6
	if !moves4 && !moves6 {
		return present, nil
	}
	link, err := chooseLink(v, present, append(routes, d.engineNetworks()...))
	if !moves4 {
		link.V4 = present.V4
	}
	if !moves6 {
		link.V6 = present.V6
	}
	return link, err
}
