package daemon

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/portolan-net/portolan/internal/agent"
	"github.com/portolan-net/portolan/internal/api"
	"github.com/portolan-net/portolan/internal/daemon/deputy"
	"github.com/portolan-net/portolan/internal/dns"
	"github.com/portolan-net/portolan/internal/engine"
	"github.com/portolan-net/portolan/internal/machine"
	"github.com/portolan-net/portolan/internal/portolan"
	"github.com/portolan-net/portolan/internal/profile"
	"github.com/portolan-net/portolan/internal/publish"
	"github.com/portolan-net/portolan/internal/settings"
	"github.com/portolan-net/portolan/internal/spec"
)

// Options say what one daemon serves.
type Options struct {
	Profile   profile.Profile
	Version   string
	Engine    engine.Choice
	EngineDir string // the bundled engine
	AgentPath string // the portolan-agent binary
	// Progress gets one api.Step after the other as JSON lines and is closed
	// when the daemon is ready or has failed; nil when nobody listens.
	Progress io.WriteCloser
	Log      *slog.Logger
	// Leave tells, once ctx has ended, whether the machine goes on without a
	// daemon. nil means that it does not.
	Leave func() bool
}

type daemon struct {
	Options
	progress     *progress
	started      time.Time
	binaries     engine.Binaries
	settings     *settings.Store
	values       atomic.Pointer[settings.Values] // in force
	taking       sync.Mutex                      // guards that values never goes back to an older state
	families     hostFamilies
	offload      udpOffload
	upstreams    upstreams
	deputy       *deputy.Deputy
	forwarding   atomic.Pointer[forwarding]   // nil until the services start
	hostNet      atomic.Pointer[hostNetwork]  // the same
	busy         atomic.Pointer[busyPorts]    // the same
	certificates atomic.Pointer[certificates] // nil until the services start
	containers   atomic.Pointer[containers]   // the same
	adopted      bool                         // the machine was there before this daemon

	rebind chan struct{} // where published ports listen has changed
	// Where the servers of the host listen has changed.
	socksMoved, hostNamesMoved chan struct{}
	routesChanged              chan struct{} // the host's
	addrsChanged               chan struct{} // the same, for those who follow addresses

	agentLogStart int64 // where in its log the agent of a new machine begins

	ready    chan struct{} // closed when the engine first answers
	host     atomic.Pointer[hostLink]
	hopeless chan struct{}           // closed when the engine ends again and again before that
	end      context.CancelCauseFunc // ends the services; errDown and errLeave say what else
	gone     chan struct{}           // closed when the machine has been taken down
	downOnce sync.Once
	downErr  error // valid once gone is closed

	mu       sync.Mutex // guards what follows
	record   machine.Record
	engine   api.Engine
	state    api.State
	ports    *publish.Table
	resolver *dns.Server
	added    *addedPorts
	heard    bool // the agent has reported
	spec     spec.Machine
	movement movement

	configured agent.EngineConfig // what the engine runs with
}

// Why the services end when somebody asked for it.
var (
	errDown  = errors.New("machine taken down")
	errLeave = errors.New("machine left to the next daemon")
)

// Run serves the profile's machine until ctx ends, somebody asks for its end,
// or it fails. The caller holds the profile's lock.
func Run(ctx context.Context, o Options) (err error) {
	d := &daemon{
		Options: o, progress: newProgress(o.Progress), started: time.Now(), state: api.Starting,
		ready: make(chan struct{}), hopeless: make(chan struct{}), gone: make(chan struct{}), rebind: make(chan struct{}, 1), socksMoved: make(chan struct{}, 1), hostNamesMoved: make(chan struct{}, 1),
		routesChanged: make(chan struct{}, 1), addrsChanged: make(chan struct{}, 1),
	}
	defer func() { d.progress.finish(err) }()
	if err := d.prepare(ctx); err != nil {
		return err
	}
	if err := d.progress.step("machine", func() error { return d.openMachine(ctx) }); err != nil {
		return err
	}
	if err := d.confine(); err != nil {
		if d.adopted {
			return err
		}
		return errors.Join(err, d.close(context.WithoutCancel(ctx)))
	}
	defer d.deputy.Close()
	serveCtx, end := context.WithCancelCause(ctx)
	defer end(nil)
	d.end = end
	control, err := d.startControl()
	if err != nil {
		return errors.Join(err, d.close(context.WithoutCancel(ctx)))
	}
	defer control.Close(ctx)
	err = d.serve(serveCtx)
	d.setState(api.Stopping)
	if cause := context.Cause(serveCtx); cause != nil {
		err = nil // it ends because it was asked to
		if !d.isReady() {
			err = fmt.Errorf("stopped before the engine was ready: %w", cause)
		}
	}
	if d.leaves(ctx, serveCtx) {
		return err
	}
	return errors.Join(err, d.close(context.WithoutCancel(ctx)))
}

// leaves reports whether the machine goes on when the services have ended.
func (d *daemon) leaves(ctx, serveCtx context.Context) bool {
	cause := context.Cause(serveCtx)
	switch {
	case errors.Is(cause, errDown):
		return false
	case !d.isReady():
		return d.adopted // of its own start, half a machine helps nobody
	case errors.Is(cause, errLeave):
		return true
	case ctx.Err() != nil:
		return d.Leave != nil && d.Leave()
	}
	return true // a service failed
}

// prepare makes the directories and finds the engine.
func (d *daemon) prepare(ctx context.Context) error {
	p := d.Profile
	for _, dir := range []string{p.RunDir, p.StateDir, p.LogDir(), p.EngineDir()} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return fmt.Errorf("make directory: %w", err)
		}
	}
	if err := d.openSettings(); err != nil {
		return err
	}
	return d.progress.step("engine found", func() (err error) {
		d.binaries, err = engine.Find(ctx, d.Options.Engine, d.EngineDir)
		return err
	})
}

// openMachine takes over the machine that runs, or starts one. One that can't be
// taken over is left as it is. Only a start needs room on the disk: whom a full
// one stops is the engine, not what containers send.
func (d *daemon) openMachine(ctx context.Context) error {
	record, err := machine.LoadRecord(d.Profile)
	if err == nil && record.Helper.Alive() && record.Init.Alive() {
		d.record, d.adopted = record, true
		d.spec, err = spec.Load(d.Profile.RunDir)
		d.configured = agent.EngineConfig{Mode: d.spec.Mode, Options: d.spec.EngineOptions, RandomPorts: d.spec.RandomPorts}
		d.spec.Profile = d.Profile
		return err
	}
	if err == nil {
		d.Log.Warn("clear remains of an earlier machine", "helper", record.Helper.PID, "init", record.Init.PID)
		err = machine.ForceDown(d.Profile, record)
	}
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	if err := checkRoom(d.Profile.StateDir); err != nil {
		return err
	}
	routes, err := hostRoutes(d.Profile)
	if err != nil {
		return err
	}
	v := d.values.Load()
	link, err := chooseLink(*v, portolan.Link{}, routes)
	if err != nil {
		return err
	}
	good, err := loadGoodOptions(d.Profile)
	if err != nil {
		d.Log.Warn("good engine options are lost", "err", err)
	}
	d.configured = d.wantedConfig()
	d.spec = spec.Machine{
		Profile: d.Profile, Version: d.Version, Link: link, Rootless: os.Geteuid() != 0, AgentPath: d.AgentPath,
		EngineBin: d.binaries.Dir, EngineSource: d.binaries.Source, EngineVersion: d.binaries.Version,
		HostRoutes: routes, Mode: v.Mode, EngineOptions: v.Engine, GoodOptions: good, RandomPorts: v.RandomPorts,
		BuildCertificates: v.Certificates,
	}
	if err := os.MkdirAll(d.Profile.SharedDir(), 0o700); err != nil {
		return fmt.Errorf("make directory: %w", err)
	}
	if info, err := os.Stat(d.agentLog()); err == nil {
		d.agentLogStart = info.Size()
	}
	if d.record, err = machine.Start(ctx, d.spec); err != nil {
		return errors.Join(err, d.removeRunDir())
	}
	return nil
}

// serveRound runs all services until one fails or ctx ends.
func (d *daemon) serveRound(ctx context.Context) error {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	group, ctx := errgroup.WithContext(ctx)
	if err := d.startServices(ctx, group); err != nil {
		stop() // the services that were started end
		return errors.Join(err, group.Wait())
	}
	group.Go(func() error {
		if err := d.progress.step("engine ready", func() error { return d.awaitReady(ctx) }); err != nil {
			return err
		}
		d.setState(api.Running)
		d.progress.finish(nil)
		d.finishMove(ctx)
		return nil
	})
	return group.Wait()
}

// readyTimeout bounds how long the engine may take to answer: three seconds mostly,
// a minute on a cold disk of a slow and busy computer.
const readyTimeout = 2 * time.Minute

// agentPoll is how often a start looks whether the agent can live. It can't be
// asked before it has reported, and its death is seen by PID 1 alone, in the log.
const agentPoll = time.Second

func (d *daemon) awaitReady(ctx context.Context) error {
	look := time.NewTicker(agentPoll)
	defer look.Stop()
	engineLate := time.After(readyTimeout)
	for {
		select {
		case <-d.ready:
			return nil
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-d.hopeless:
			return fmt.Errorf("start engine: %s", d.engineTrouble())
		case <-look.C:
			if deaths, word := d.agentLife(); deaths >= maxFailedStarts && !d.heardAgent() {
				return fmt.Errorf("start agent: it ends again and again: %s", word)
			}
		case <-engineLate:
			return fmt.Errorf("start engine: no answer after %s: %s", readyTimeout, d.engineTrouble())
		}
	}
}

// Down takes the machine down and returns when it is gone; the daemon ends soon
// after. It may be called more than once.
func (d *daemon) Down(ctx context.Context) error {
	d.setState(api.Stopping)
	d.end(errDown)
	select {
	case <-d.gone:
		return d.downErr
	case <-ctx.Done():
		return ctx.Err()
	}
}

// engineStopTimeout bounds the orderly end of containers and engine: dockerd's
// own bound for a container is 10 s unless the container says otherwise.
const engineStopTimeout = 30 * time.Second

// close takes the machine down, once.
func (d *daemon) close(ctx context.Context) error {
	d.downOnce.Do(func() {
		defer close(d.gone)
		d.downErr = d.stopMachine(ctx, d.isReady())
	})
	return d.downErr
}

// stopMachine takes the machine down: first in order, if there may be containers,
// then for certain.
func (d *daemon) stopMachine(ctx context.Context, orderly bool) error {
	stopCtx, cancel := context.WithTimeout(ctx, engineStopTimeout)
	defer cancel()
	if _, err := machine.LoadRecord(d.Profile); err == nil && orderly {
		// Where no agent answers the containers go with the machine.
		if err := agent.Shutdown(stopCtx, d.Profile.SharedDir()); err != nil && d.Log != nil {
			d.Log.Warn("stop engine in order", "err", err)
		}
	}
	return errors.Join(machine.Stop(d.Profile), d.removeRunDir())
}

// removeRunDir removes what only a running machine needs.
func (d *daemon) removeRunDir() error {
	p := d.Profile
	for _, path := range []string{p.DockerSocket(), p.SharedDir(), p.ForwardDir()} {
		if err := os.RemoveAll(path); err != nil {
			return err
		}
	}
	return spec.Remove(p)
}

func (d *daemon) isReady() bool { return closed(d.ready) }

func closed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

func (d *daemon) setState(state api.State) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.state != api.Stopping {
		d.state = state
	}
}
