package daemon

import (
	"cmp"
	"context"
	"fmt"
	"net/netip"
	"os"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/portolan-net/portolan/internal/agentlink"
	"github.com/portolan-net/portolan/internal/api"
	"github.com/portolan-net/portolan/internal/dns"
	"github.com/portolan-net/portolan/internal/egress"
	"github.com/portolan-net/portolan/internal/machine"
	"github.com/portolan-net/portolan/internal/portolan"
	"github.com/portolan-net/portolan/internal/proxy"
	"github.com/portolan-net/portolan/internal/publish"
	"github.com/portolan-net/portolan/internal/relay"
	"github.com/portolan-net/portolan/internal/router"
	"github.com/portolan-net/portolan/internal/scarce"
	"github.com/portolan-net/portolan/internal/system"
)

// startServices joins the parts and starts them in group. What was started
// before an error ends with ctx.
func (d *daemon) startServices(ctx context.Context, group *errgroup.Group) error {
	openNames := func(path string) (*os.File, error) { return d.openNames(ctx, path) }
	names, err := system.NewNameWatcher("", "", openNames, d.Log.With("part", "names"))
	if err != nil {
		return err
	}
	containers := &containers{socket: d.Profile.EngineSocket()}
	d.containers.Store(containers)
	hostNames := d.newHostNames(containers)
	if d.told().Moving {
		if err := router.Move(d.Profile.HelperSocket(), d.link()); err != nil {
			return err
		}
	}
	path, err := router.Attach(ctx, d.Profile.HelperSocket(), d.link(), d.Log.With("part", "router"))
	if err != nil {
		return err
	}
	path.SetOffload(&d.offload.Offload)
	d.offload.use(func() error { return testOffload(path) }, d.Log)
	resolver := dns.New(dns.Config{
		Link: d.link(), Source: names, Filter: d.dnsFilter, Local: d.families.has, Networks: path.Networks(),
		Log: d.Log.With("part", "dns"),
	})
	d.setResolver(resolver)
	socks := d.newSOCKS()
	allowHost := func(flow portolan.Flow) error {
		return cmp.Or(d.allowHost(flow), hostNames.allow(flow), socks.allow(flow))
	}
	policies := proxy.NewSource(nil, nil)
	d.followProxies(ctx, group, policies)
	proxies := d.newProxies(policies, resolver)
	out := egress.New(egress.Config{
		Link: d.link(), Former: d.formerLinks, DNS: resolver, Machine: path, Networks: path.Networks(), Log: d.Log.With("part", "egress"),
		Mode: d.mode, Ports: system.NewOutgoing(func() system.PortRange { return d.engineConfig().RandomPorts }),
		AllowHost: allowHost, Proxies: proxies, Offload: &d.offload.Offload,
	})
	forwarding, err := d.newForwarding(ctx, allowHost)
	if err != nil {
		return err
	}
	d.forwarding.Store(forwarding)
	link := &agentSide{daemon: d, path: path, forwarding: forwarding}
	proxies.join(out, link)
	socks.join(d, path, link, hostNames)
	publishing := publish.Config{
		Link: d.link(), Machine: path, Log: d.Log.With("part", "publish"),
		Networks: link.networks, Holder: d.deputy.Holder, ListenOn: d.listenOn,
		Relay: relay.Start, Labels: containers.labels, Name: containers.nameOf, Changed: func() { link.outside.changed() },
		Connections: path.Flows(), Sessions: scarce.NewSessions(), Offload: &d.offload.Offload,
	}
	link.Table = publish.New(publishing)
	link.hostNet = newHostNetwork(d, publishing)
	d.hostNet.Store(link.hostNet)
	link.busy = newBusyPorts(d, link.Table)
	link.outside = newOutside(d, func() []api.Port { return append(link.Table.List(), link.hostNet.list()...) })
	added := newAddedPorts(link.Table, containers, addedPortsFile(d.Profile), d.Log.With("part", "ports"))
	d.setPorts(link.Table, added)
	d.setHostLink(path, link.networks, hostNames, link.outside)

	group.Go(func() error { return d.settings.Follow(ctx, d.settingsChanged, d.Log.With("part", "settings")) })
	group.Go(func() error {
		return d.families.follow(ctx, d.Profile, d.networkChanged(names), d.Log.With("part", "families"))
	})
	group.Go(func() error { d.endLost(ctx, d.Log.With("part", "addresses")); return nil })
	group.Go(func() error { return names.Run(ctx) })
	group.Go(func() error { return resolver.Run(ctx) })
	group.Go(func() error {
		defer out.Close()
		defer path.Close()
		defer link.Close()
		return path.Run(ctx, out)
	})
	agents, err := listenSocket(d.Profile.AgentSocket())
	if err != nil {
		return err
	}
	group.Go(func() error { return agentlink.Serve(ctx, agents, link, d.Log.With("part", "agents")) })
	clients := d.newEngineSocket(policies.Containers)
	d.certificates.Store(d.newCertificates(clients.WhileQuiet))
	d.tellBuilds() // the machine may be older than the setting
	users, err := listenSocket(d.Profile.DockerSocket())
	if err != nil {
		return err
	}
	group.Go(func() error {
		return serveClients(ctx, users, clients.Serve, d.Log.With("part", "engine-socket"))
	})
	group.Go(func() error { d.certificates.Load().run(ctx); return nil })
	group.Go(func() error { d.avoidClashes(ctx, clients.WhileQuiet); return nil })
	group.Go(func() error { d.forgetLinks(ctx, containers); return nil })
	group.Go(func() error { return d.watchMachine(ctx, path) })
	group.Go(func() error { trimLogs(ctx, d.Profile.LogDir(), d.Log); return nil })
	group.Go(func() error { added.run(ctx); return nil })
	group.Go(func() error { link.busy.run(ctx); return nil })
	group.Go(func() error { link.outside.run(ctx); return nil })
	group.Go(func() error { d.followBinding(ctx, link.Table, link.hostNet.table); return nil })
	group.Go(func() error { hostNames.run(ctx); return nil })
	group.Go(func() error { socks.run(ctx); return nil })
	group.Go(func() error { link.hostNet.run(ctx); return nil })
	group.Go(func() error { return forwarding.table.Run(ctx) })
	return nil
}

// agentSide is what the agent calls: the port table, and the two things that
// the agent reports.
type agentSide struct {
	*publish.Table
	*forwarding
	daemon  *daemon
	path    *router.Datapath
	known   atomic.Pointer[[]netip.Prefix]
	busy    *busyPorts
	hostNet *hostNetwork
	outside *outside
}

// AgentHere comes before all that the agent says.
func (a *agentSide) AgentHere() {
	a.Table.AgentHere()
	a.busy.tellAgain()
	a.hostNet.agentHere()
	a.outside.changed()
}

// AgentGone comes when nobody speaks for the machine any more.
func (a *agentSide) AgentGone() {
	a.Table.AgentGone()
	a.hostNet.agentGone()
}

func (a *agentSide) SetHostNetwork(n portolan.HostNetwork) { a.hostNet.set(n) }

func (a *agentSide) SetEngine(e api.Engine) { a.daemon.setEngine(e) }

func (a *agentSide) SetNetworks(networks []netip.Prefix) {
	a.known.Store(&networks)
	a.path.SetSources(networks)
}

func (a *agentSide) networks() []netip.Prefix {
	if known := a.known.Load(); known != nil {
		return *known
	}
	return nil
}

// helperPause keeps helpers that die at once from using up the processor.
const helperPause = time.Second

// watchMachine replaces a helper that dies. It ends the services when the
// machine ends.
func (d *daemon) watchMachine(ctx context.Context, path *router.Datapath) error {
	record := d.record
	for {
		began := time.Now()
		ended, err := record.AwaitEnd(ctx)
		if err != nil || ctx.Err() != nil {
			return err
		}
		if ended != machine.HelperName || !record.Init.Alive() {
			return fmt.Errorf("%s ended; see: portolan logs; type: portolan up", ended)
		}
		d.Log.Warn("router helper died; it is started again", "pid", record.Helper.PID)
		if time.Since(began) < helperPause {
			select {
			case <-ctx.Done():
				return nil
			case <-time.After(helperPause):
			}
		}
		if record, err = d.replaceHelper(ctx, record, path); err != nil {
			return err
		}
	}
}

// replaceHelper starts another helper with what this daemon has of the router.
func (d *daemon) replaceHelper(ctx context.Context, record machine.Record, path *router.Datapath) (machine.Record, error) {
	estate, err := path.Estate()
	if err != nil {
		return record, err
	}
	defer estate.Close()
	if record, err = d.deputy.Resume(ctx, record, estate); err != nil {
		return record, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.record = record
	return record, nil
}
