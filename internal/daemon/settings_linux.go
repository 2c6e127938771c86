package daemon

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"os"
	"reflect"
	"syscall"
	"time"

	"github.com/portolan-net/portolan/internal/agent"
	"github.com/portolan-net/portolan/internal/api"
	"github.com/portolan-net/portolan/internal/dns"
	"github.com/portolan-net/portolan/internal/engine"
	"github.com/portolan-net/portolan/internal/portolan"
	"github.com/portolan-net/portolan/internal/settings"
)

// openSettings reads the settings before anything is started with them. The
// directory is made so that it can be named to the kernel when the daemon
// confines itself.
func (d *daemon) openSettings() (err error) {
	if err := os.MkdirAll(d.Profile.ConfigDir, 0o700); err != nil {
		return fmt.Errorf("make directory: %w", err)
	}
	d.settings, err = settings.Open(settings.Files{
		User: d.Profile.SettingsFile(), Admin: settings.AdminFiles(), Good: d.Profile.StateDir, Remember: true,
		CheckEngine: engine.CheckOptions,
	})
	if err != nil {
		return err
	}
	d.settingsChanged(d.settings.Snapshot())
	return nil
}

// takeSettings puts the values in force that count at once: the store's latest,
// whoever made the store read them.
func (d *daemon) takeSettings() {
	d.taking.Lock()
	defer d.taking.Unlock()
	before := d.values.Swap(&d.settings.Snapshot().Values)
	d.chooseProxies()
	d.limitHost()
	d.offload.want(d.values.Load().UDPOffload, d.Log)
	d.moveListeners(before)
	d.moveServers(before)
	if before != nil && before.Certificates != d.values.Load().Certificates {
		d.tellBuilds()
	}
	d.freeSubnets(before)
}

// settingsChanged takes them and tells the log.
func (d *daemon) settingsChanged(s *settings.Snapshot) {
	d.takeSettings()
	for _, problem := range s.Problems {
		d.Log.Warn("settings file is bad", "problem", problem)
	}
	for _, warning := range s.Warnings {
		d.Log.Warn("setting is not used", "warning", warning)
	}
	d.Log.Info("settings in force", "mode", s.Values.Mode, "dns", s.Values.Inhibition, "ports", s.Values.PortBinding, "hostLoopback", s.Values.HostLoopback)
}

func (d *daemon) mode() portolan.Mode { return d.values.Load().Mode }

// allowHost is what egress asks before it goes to the host's loopback.
func (d *daemon) allowHost(flow portolan.Flow) error {
	if d.values.Load().HostLoopback {
		return nil
	}
	return fmt.Errorf("reach the host for %s: setting %s: %w", flow, settings.KeyLoopback, syscall.EACCES)
}

// listenOn is where a port published on addr listens.
func (d *daemon) listenOn(addr netip.Addr) netip.Addr {
	return d.values.Load().PortBinding.Listen(addr)
}

// dnsFilter is what the resolver hides now.
func (d *daemon) dnsFilter() dns.Filter {
	v := d.values.Load()
	return dnsFilter(v.Mode, v.Inhibition, d.families.now())
}

// dnsFilter: a mode hides the family that it refuses, from our own names too;
// auto hides what leads nowhere from here.
func dnsFilter(mode portolan.Mode, inhibition string, host families) dns.Filter {
	f := dns.Filter{A: !mode.IPv4(), AAAA: !mode.IPv6()}
	f.A, f.AAAA = f.A || inhibition == "ipv4", f.AAAA || inhibition == "ipv6"
	f.OwnA, f.OwnAAAA = f.A, f.AAAA
	// Without either family, the host may be about to get one: nothing is hidden.
	if inhibition == "auto" && mode == portolan.DualStack && (host.v4 || host.v6) {
		f.A, f.AAAA = !host.v4, !host.v6
	}
	return f
}

// engineConfig is what the running engine was told.
func (d *daemon) engineConfig() agent.EngineConfig {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.configured
}

func (d *daemon) wantedConfig() agent.EngineConfig {
	v := d.values.Load()
	return agent.EngineConfig{Mode: v.Mode, Options: v.Engine, RandomPorts: v.RandomPorts}
}

// engineRestart bounds a restart of dockerd with another configuration.
const engineRestart = 60 * time.Second

// applySettings reads the files again, and restarts the engine if that is asked
// for and changes anything.
func (d *daemon) applySettings(ctx context.Context, restart bool) (api.Applied, error) {
	if s, changed := d.settings.Reload(); changed {
		d.settingsChanged(s)
	} else {
		d.takeSettings() // the follower may have read them, and not come to this yet
	}
	var applied api.Applied
	if restart {
		moved, err := d.moveAsWanted(ctx)
		if err != nil {
			return applied, err
		}
		applied.Moved = moved
	}
	wanted := d.wantedConfig()
	if restart && (!same(wanted, d.engineConfig()) || d.certificatesPending()) {
		ctx, cancel := context.WithTimeout(ctx, engineRestart)
		defer cancel()
		if err := d.configureEngine(ctx, wanted); err != nil {
			return applied, err
		}
		applied.Restarted = true
		d.certificatesRenewed()
		if err := d.setConfigured(wanted); err != nil {
			return applied, err
		}
	}
	applied.Pending = d.pending(ctx)
	return applied, nil
}

// configureEngine makes dockerd start again. It would wait five seconds for
// those who hear its events.
func (d *daemon) configureEngine(ctx context.Context, c agent.EngineConfig) error {
	if containers := d.containers.Load(); containers != nil {
		containers.hangUp()
	}
	return agent.ConfigureEngine(ctx, d.Profile.SharedDir(), c)
}

// setConfigured notes what the engine runs with, for the next agent as well.
func (d *daemon) setConfigured(c agent.EngineConfig) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.configured = c
	d.keepGoodLocked() // it answers
	return d.writeSpecLocked()
}

// tellBuilds makes the setting of certificates count for the next step of a build.
func (d *daemon) tellBuilds() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.writeSpecLocked(); err != nil {
		d.Log.Warn("steps of builds do not follow the setting of certificates", "err", err)
	}
}

// writeSpecLocked writes what is in force for those in the machine who read it.
func (d *daemon) writeSpecLocked() error {
	next, c := d.spec, d.configured
	next.Mode, next.EngineOptions, next.RandomPorts = c.Mode, c.Options, c.RandomPorts
	next.BuildCertificates = d.values.Load().Certificates
	return d.setSpecLocked(next)
}

func same(a, b agent.EngineConfig) bool {
	if a.Mode == "" {
		a.Mode = portolan.DualStack
	}
	if b.Mode == "" {
		b.Mode = portolan.DualStack
	}
	return a.Mode == b.Mode && a.RandomPorts == b.RandomPorts && (len(a.Options) == 0 && len(b.Options) == 0 || reflect.DeepEqual(a.Options, b.Options))
}

// pending lists what does not count everywhere yet, and when it will.
func (d *daemon) pending(ctx context.Context) []string {
	wanted, running, v := d.wantedConfig(), d.engineConfig(), d.values.Load()
	var found []string
	if wanted.Mode != running.Mode && !same(agent.EngineConfig{Mode: wanted.Mode}, agent.EngineConfig{Mode: running.Mode}) {
		found = append(found, fmt.Sprintf("%s %s: the router and DNS follow it; new networks will when the engine restarts: portolan settings apply", settings.KeyMode, wanted.Mode))
	} else if docker0, err := bridgeIPv6(ctx, d.Profile.EngineSocket()); err == nil && docker0 != wanted.Mode.IPv6() {
		found = append(found, fmt.Sprintf("%s %s: docker0 follows when the engine restarts while no container runs: stop them and type: portolan settings apply", settings.KeyMode, wanted.Mode))
	}
	found = append(found, d.outdatedNetworks(ctx, wanted.Mode)...)
	if wanted.RandomPorts != running.RandomPorts {
		found = append(found, fmt.Sprintf("%s %s: counts when the engine restarts: portolan settings apply", settings.KeyRandom, wanted.RandomPorts))
	}
	wanted.RandomPorts = running.RandomPorts
	if wanted.Mode = running.Mode; !same(wanted, running) {
		found = append(found, settings.KeyEngine+": counts when the engine restarts: portolan settings apply")
	}
	if d.certificatesPending() {
		found = append(found, "the host's CA certificates have changed: the engine trusts them when nobody is attached, builds or pulls, or now: portolan settings apply")
	}
	return append(append(found, d.pendingSubnets(ctx, v)...), d.pendingFormer(ctx)...)
}

// clashes names networks of the host that overlap the machine's own.
func (d *daemon) clashes(routes []netip.Prefix) []string {
	v, link := d.values.Load(), d.link()
	var found []string
	for _, own := range []struct {
		key    string
		fixed  bool
		subnet netip.Prefix
	}{{settings.KeySubnet4, v.FixedV4, link.V4}, {settings.KeySubnet6, v.FixedV6, link.V6}} {
		for _, route := range routes {
			if !route.Overlaps(own.subnet) {
				continue
			}
			advice := "the machine moves to another one when nobody is attached, builds or pulls, and no swarm keeps it; or now: portolan settings apply"
			if own.fixed {
				advice = fmt.Sprintf("choose another one: portolan settings set %s ...", own.key)
			}
			found = append(found, fmt.Sprintf("the host has a route to %s, which overlaps the machine's network %s: containers do not reach it; %s", route, own.subnet, advice))
		}
	}
	return found
}

// bridgeIPv6 asks the engine whether docker0 has IPv6.
func bridgeIPv6(ctx context.Context, engineSocket string) (bool, error) {
	var network struct{ EnableIPv6 bool }
	err := askEngine(ctx, engineSocket, "/networks/bridge", func(r io.Reader) error { return json.NewDecoder(r).Decode(&network) })
	return network.EnableIPv6, err
}

// checkSettings says why what a text of the user's file changes can't be done. It
// changes nothing.
func (d *daemon) checkSettings(ctx context.Context, text []byte) error {
	v, err := d.settings.Preview(text)
	if err != nil {
		return err
	}
	link, err := d.wantedLink(&v)
	if err != nil {
		return err
	}
	present, _ := d.wantedLink(d.values.Load())
	if link != present && link != d.link() {
		if err := d.mayMove(ctx, link); err != nil {
			return err
		}
	}
	wanted := agent.EngineConfig{Mode: v.Mode, Options: v.Engine, RandomPorts: v.RandomPorts}
	if same(wanted, d.engineConfig()) {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, engineRestart)
	defer cancel()
	if err := agent.CheckEngine(ctx, d.Profile.SharedDir(), wanted); err != nil {
		return fmt.Errorf("%s: %w", settings.KeyEngine, err)
	}
	return nil
}

// maxCheck is more than a settings file may have, as a JSON string.
const maxCheck = 4 << 20

// serveCheck is POST /v1/settings/check.
func (d *daemon) serveCheck(w http.ResponseWriter, r *http.Request) {
	var text string
	err := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxCheck)).Decode(&text)
	if err == nil {
		err = d.checkSettings(r.Context(), []byte(text))
	}
	if err != nil {
		answer(w, http.StatusBadRequest, map[string]string{"error": err.Error()}, d.Log)
		return
	}
	answer(w, http.StatusOK, struct{}{}, d.Log)
}

// serveSettings is POST /v1/settings.
func (d *daemon) serveSettings(w http.ResponseWriter, r *http.Request) {
	// The caller may go away; a restart that was begun is finished.
	applied, err := d.applySettings(context.WithoutCancel(r.Context()), r.URL.Query().Get("restart") == "true")
	if err != nil {
		answer(w, http.StatusInternalServerError, map[string]string{"error": err.Error()}, d.Log)
		return
	}
	answer(w, http.StatusOK, applied, d.Log)
}
