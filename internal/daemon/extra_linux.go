package daemon

import (
	"context"
	"log/slog"
	"os"
	"strings"

	"github.com/portolan-net/portolan/internal/enginesocket"
	"github.com/portolan-net/portolan/internal/proxy"
	"github.com/portolan-net/portolan/internal/system"
)

// extras says what containers and builds get beyond what their user asked for.
type extras struct {
	daemon   *daemon
	policy   func() *proxy.Policy // the containers'
	engine   *enginesocket.Proxy
	log      *slog.Logger
	findPool func() string // the host's CA bundle, "" for none
	sysctls  map[string]string
}

// newEngineSocket returns what carries docker's connections.
func (d *daemon) newEngineSocket(policy func() *proxy.Policy) *enginesocket.Proxy {
	e := &extras{daemon: d, policy: policy, log: d.Log.With("part", "engine-socket"), findPool: system.CertificateBundle, sysctls: unpaced()}
	e.engine = enginesocket.New(enginesocket.Config{Engine: d.Profile.EngineSocket(), Extra: e.now, BeforeSwarm: d.beforeSwarm, BeforeStart: d.beforeStart, Log: e.log})
	return e.engine
}

// now is enginesocket.Config.Extra.
func (e *extras) now(ctx context.Context) enginesocket.Extra {
	extra := enginesocket.Extra{Sysctls: e.sysctls}
	v := e.daemon.values.Load()
	if policy := e.policy(); v.ProxyVariables && policy.Configured() {
		extra.BuildArgs = enginesocket.Variables(e.noProxy(ctx, policy))
		extra.Env = extra.BuildArgs
	}
	if bundle := e.findPool(); v.Certificates && bundle != "" {
		extra.Binds = []string{bundle + ":" + bundleInContainer + ":ro"}
		extra.Env = append(system.CertificateVariables(bundleInContainer), extra.Env...)
	}
	return extra
}

// unpaced keeps BBR, where it is the host's default, out of containers: their
// connections end at the router, a memory away, and there its timers only halve
// their speed. What goes on from the host has the host's default.
func unpaced() map[string]string {
	const name = "net.ipv4.tcp_congestion_control" // of IPv6, too
	algorithm, err := os.ReadFile("/proc/sys/net/ipv4/tcp_congestion_control")
	if err != nil || !strings.HasPrefix(string(algorithm), "bbr") {
		return nil
	}
	return map[string]string{name: "reno"} // which every kernel has
}

// noProxy is NO_PROXY for a container that is made now.
func (e *extras) noProxy(ctx context.Context, policy *proxy.Policy) string {
	networks, err := e.engine.Networks(ctx)
	if err != nil {
		e.log.Warn("NO_PROXY is without the engine's networks", "err", err)
	}
	names, err := e.engine.Names(ctx)
	if err != nil {
		e.log.Warn("NO_PROXY is without names of containers", "err", err)
	}
	return enginesocket.NoProxy(policy.Exclusions(), networks, names)
}

// bundleInContainer is where containers find the host's CA certificates: a place
// of its own, beside those of the image.
const bundleInContainer = "/etc/portolan/ca-certificates.crt"
