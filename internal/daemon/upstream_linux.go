package daemon

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"strings"
	"sync/atomic"

	"golang.org/x/sync/errgroup"

	"github.com/portolan-net/portolan/internal/api"
	"github.com/portolan-net/portolan/internal/daemon/deputy"
	"github.com/portolan-net/portolan/internal/proxy"
	"github.com/portolan-net/portolan/internal/settings"
)

// upstreams keeps the proxy policies up to date. The zero value has none yet.
type upstreams struct {
	live   atomic.Pointer[proxy.Live]
	report atomic.Pointer[deputy.Report] // the deputy's last one
}

// followProxies starts what keeps policies up to date.
func (d *daemon) followProxies(ctx context.Context, group *errgroup.Group, policies *proxy.Source) {
	live := proxy.NewLive(policies, proxy.RealHost(), proxy.NewLoader((&net.Dialer{}).DialContext), d.Log.With("part", "proxy"))
	d.upstreams.live.Store(live)
	d.takeReport()
	d.chooseProxies()
	group.Go(func() error { return live.Run(ctx) })
}

// followReports takes what the deputy reports, until ctx ends.
func (d *daemon) followReports(ctx context.Context) error {
	return d.deputy.FollowReports(ctx, func(r deputy.Report) {
		d.upstreams.report.Store(&r)
		d.takeReport()
	})
}

// takeReport hands the last report on to the policies, whichever came first.
func (d *daemon) takeReport() {
	if live, r := d.upstreams.live.Load(), d.upstreams.report.Load(); live != nil && r != nil {
		live.SetHost(r.Proxies, r.Password)
	}
}

// chooseProxies hands the settings on, and has the password found out again.
func (d *daemon) chooseProxies() {
	live := d.upstreams.live.Load()
	if live == nil {
		return
	}
	v := d.values.Load()
	containers := choice(v.ContainersProxy)
	containers.Closed = v.ContainersProxy.Transparent.All
	live.Choose(proxy.Choices{Engine: choice(v.Proxy), Containers: containers, User: v.ProxyUser})
	d.deputy.AskPassword()
}

func choice(v settings.ProxyValues) proxy.Choice {
	return proxy.Choice{
		Group: v.Group, Mode: proxy.Mode(v.Mode), HTTP: v.HTTP, HTTPS: v.HTTPS, Exclude: v.Exclude,
		PAC: v.PAC, EmbeddedPAC: v.EmbeddedPAC,
	}
}

// proxyProblems are for status.
func (d *daemon) proxyProblems() []string {
	live := d.upstreams.live.Load()
	if live == nil {
		return nil
	}
	found := live.Problems()
	if r := d.upstreams.report.Load(); r != nil && r.Problem != "" {
		found = append(found, r.Problem)
	}
	return found
}

// serveRoute is GET /v1/route?url=...&container=...
func (d *daemon) serveRoute(w http.ResponseWriter, r *http.Request) {
	fail := func(code int, err error) {
		answer(w, code, map[string]string{"error": err.Error()}, d.Log)
	}
	to, err := proxy.ParseDestination(r.URL.Query().Get("url"))
	if err != nil {
		fail(http.StatusBadRequest, err)
		return
	}
	live := d.upstreams.live.Load()
	if live == nil {
		fail(http.StatusServiceUnavailable, fmt.Errorf("the machine is starting; try again"))
		return
	}
	result := api.Routes{Host: to.Host, Port: to.Port}
	name := r.URL.Query().Get("container")
	if name == "" {
		result.Routes = append(result.Routes, d.route(r.Context(), "engine", live.Source.Engine(), to))
	} else if name, err = d.containerNamed(r.Context(), name); err != nil {
		fail(http.StatusNotFound, err)
		return
	}
	containers := d.route(r.Context(), "containers", live.Source.Containers(), to)
	containers.Container = name
	containers.Transparent = d.values.Load().ContainersProxy.Transparent.Has(to.Port)
	result.Routes = append(result.Routes, containers)
	answer(w, http.StatusOK, result, d.Log)
}

// route asks one policy. Credentials stay here: proxy.Route does not print them.
func (d *daemon) route(ctx context.Context, who string, p *proxy.Policy, to proxy.Destination) api.Route {
	decision, err := p.Decide(ctx, to)
	route := api.Route{For: who, Source: decision.Source, Rule: decision.Rule, Exclusions: p.Exclusions(), Configured: p.Configured()}
	for _, way := range decision.Routes {
		route.Ways = append(route.Ways, way.String())
	}
	if err != nil {
		route.Error = err.Error()
	}
	return route
}

// containerNamed returns the name of the running container that a user means.
func (d *daemon) containerNamed(ctx context.Context, name string) (string, error) {
	all, err := (&containers{socket: d.Profile.EngineSocket()}).list(ctx)
	if err != nil {
		return "", err
	}
	for _, c := range all {
		if c.name() == name || strings.HasPrefix(c.ID, name) {
			return c.name(), nil
		}
	}
	return "", fmt.Errorf("container %s: no such container; see: docker ps -a", name)
}
