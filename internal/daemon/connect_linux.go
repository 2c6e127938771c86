package daemon

import (
	"fmt"
	"net/http"
	"net/netip"

	"github.com/portolan-net/portolan/internal/api"
	"github.com/portolan-net/portolan/internal/connect"
	"github.com/portolan-net/portolan/internal/router"
	"github.com/portolan-net/portolan/internal/settings"
)

// hostLink is what the daemon knows of the host's own way to the machine's
// networks. The connector keeps that; the daemon says whether it may, and shows it.
type hostLink struct {
	path     *router.Datapath
	networks func() []netip.Prefix // the machine's, as the agent has told
	names    *hostNames
	outside  *outside
}

func (d *daemon) setHostLink(path *router.Datapath, networks func() []netip.Prefix, names *hostNames, outside *outside) {
	d.host.Store(&hostLink{path, networks, names, outside})
	d.limitHost()
}

// serveConnect is GET /v1/connect, and GET /v1/names.
func (d *daemon) serveConnect(mux *http.ServeMux) {
	mux.HandleFunc("GET /v1/connect", func(w http.ResponseWriter, _ *http.Request) {
		host, may := d.host.Load(), d.values.Load().Connect
		switch {
		case may == settings.ConnectOff:
			answer(w, http.StatusForbidden, map[string]string{"error": fmt.Sprintf(
				"the setting %s is %s; see: portolan settings get %s", settings.KeyConnect, may, settings.KeyConnect)}, d.Log)
			return
		case host == nil, may == settings.ConnectPublished && !host.outside.limited.Load():
			answer(w, http.StatusServiceUnavailable, map[string]string{"error": "the machine is starting; try again in a moment"}, d.Log)
			return
		}
		answer(w, http.StatusOK, api.ConnectOffer{Link: d.link()}, d.Log)
	})
	mux.HandleFunc("GET /v1/names", func(w http.ResponseWriter, _ *http.Request) {
		names := api.Names{}
		if host := d.host.Load(); host != nil {
			names = host.names.zone.Names()
		}
		answer(w, http.StatusOK, names, d.Log)
	})
}

// limitHost puts the setting in force: the host is disconnected, or reaches what
// it may.
func (d *daemon) limitHost() {
	host := d.host.Load()
	if host == nil {
		return
	}
	host.outside.changed()
	if d.values.Load().Connect != settings.ConnectOff {
		return
	}
	if err := host.path.Disconnect(); err != nil {
		d.Log.Warn("disconnect the host", "err", err)
	}
}

// connection is what status shows of it; nil when the host is not connected.
func (d *daemon) connection() *api.Connection {
	index, name, err := connect.Find(d.Profile)
	host := d.host.Load()
	if err != nil || index == 0 || host == nil {
		return nil
	}
	own, others, err := connect.HostRoutes(index)
	if err != nil {
		return nil
	}
	c := &api.Connection{Interface: name, Address: d.link().Outside(), Networks: own}
	_, refused := connect.Plan(host.networks(), others)
	for _, r := range refused {
		c.Refused = append(c.Refused, r.String())
	}
	return c
}
