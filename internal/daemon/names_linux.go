package daemon

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/portolan-net/portolan/internal/api"
	"github.com/portolan-net/portolan/internal/dns"
	"github.com/portolan-net/portolan/internal/portolan"
	"github.com/portolan-net/portolan/internal/system"
)

// hostNames keeps the names of containers for the host: each running container's
// own, and those that it has on its networks. Theory of operation: after events
// of the engine all containers are listed; those that are new, or whose addresses
// are others than before, are asked for their names; the zone gets them all.
type hostNames struct {
	containers *containers
	zone       dns.Zone
	server     hostServer
	log        *slog.Logger

	known map[string]namedContainer // by id; used by follow alone
}

// namedContainer is what one container adds to the zone.
type namedContainer struct {
	seen  string // as listed: when it is the same, so are the names
	names map[string][]netip.Addr
}

func (d *daemon) newHostNames(c *containers) *hostNames {
	h := &hostNames{containers: c, log: d.Log.With("part", "host-names"), known: map[string]namedContainer{}}
	h.server = hostServer{
		what: "names of containers", addr: func() netip.AddrPort { return d.values.Load().HostNames }, moved: d.hostNamesMoved,
		serve: h.serve, log: h.log,
	}
	return h
}

// allow keeps containers away from what tells the host about all of them: to them
// nobody listens there.
func (h *hostNames) allow(flow portolan.Flow) error {
	if flow.Proto != portolan.ICMP && h.server.isAt(flow.Dst.Port()) {
		return fmt.Errorf("names of containers are for the host: %w", syscall.ECONNREFUSED)
	}
	return nil
}

// run serves until ctx ends. Where the setting says nowhere, the names are kept for
// the SOCKS server.
func (h *hostNames) run(ctx context.Context) {
	following := make(chan struct{})
	defer func() { <-following }()
	go func() {
		defer close(following)
		h.follow(ctx)
	}()
	h.server.run(ctx)
}

func (h *hostNames) serve(ctx context.Context, addr netip.AddrPort) error {
	var lc net.ListenConfig
	lc.SetMultipathTCP(false)
	udp, err := lc.ListenPacket(ctx, "udp", addr.String())
	if err != nil {
		return err
	}
	tcp, err := lc.Listen(ctx, "tcp", addr.String())
	if err != nil {
		udp.Close()
		return err
	}
	h.log.Info("the host can ask for names of containers", "addr", addr)
	return h.zone.Serve(ctx, udp, tcp)
}

// follow keeps the zone up to date until ctx ends.
func (h *hostNames) follow(ctx context.Context) {
	changed := make(chan struct{}, 1)
	updated := make(chan struct{})
	defer func() { <-updated }()
	go func() {
		defer close(updated)
		h.updateAfter(ctx, changed)
	}()
	for ctx.Err() == nil {
		err := h.containers.events(ctx, func() {
			select {
			case changed <- struct{}{}:
			default: // there is one to come
			}
		})
		h.log.Debug("engine tells no events", "err", err)
		select {
		case <-ctx.Done():
		case <-time.After(eventsPause):
		}
	}
}

// secondLook comes after the last event: the engine tells of connected and
// disconnected networks before its list has them.
const secondLook = 300 * time.Millisecond

// updateAfter updates once for all events that come meanwhile, until ctx ends.
func (h *hostNames) updateAfter(ctx context.Context, changed <-chan struct{}) {
	again := time.NewTimer(secondLook)
	defer again.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-changed:
			again.Reset(secondLook)
		case <-again.C:
		}
		if err := h.update(ctx); err != nil && ctx.Err() == nil {
			h.log.Debug("names of containers are out of date", "err", err)
		}
	}
}

// update reads all names again.
func (h *hostNames) update(ctx context.Context) error {
	all, err := h.containers.list(ctx)
	if err != nil {
		return err
	}
	present, names := map[string]namedContainer{}, map[string][]netip.Addr{}
	for _, c := range all {
		if c.State != "running" {
			continue
		}
		one, ok := h.known[c.ID]
		if seen := fmt.Sprint(c.name(), c.Networks.Networks); !ok || one.seen != seen {
			if one.names, err = namesOf(ctx, h.containers.socket, c); err != nil {
				h.log.Debug("names of a container", "container", c.ID, "err", err)
				continue // it is about to go, and that makes an event
			}
			one.seen = seen
		}
		present[c.ID] = one
		for name, addrs := range one.names {
			names[name] = append(names[name], addrs...)
		}
	}
	h.known = present
	h.zone.Set(names)
	return nil
}

// namesOf asks the engine for a container's names. A name that a container has on
// a network stands for its addresses there, its own for all of them.
func namesOf(ctx context.Context, socket string, c container) (map[string][]netip.Addr, error) {
	var details struct {
		NetworkSettings struct {
			Networks map[string]struct {
				IPAddress         netip.Addr
				GlobalIPv6Address netip.Addr
				Aliases, DNSNames []string
			}
		}
	}
	ctx, cancel := context.WithTimeout(ctx, statusTimeout)
	defer cancel()
	err := askEngine(ctx, socket, "/containers/"+url.PathEscape(c.ID)+"/json", func(body io.Reader) error {
		return json.NewDecoder(body).Decode(&details)
	})
	if err != nil {
		return nil, err
	}
	names := map[string][]netip.Addr{}
	for _, network := range details.NetworkSettings.Networks {
		for _, name := range slices.Concat([]string{c.name()}, network.Aliases, network.DNSNames) {
			name = strings.ToLower(name)
			for _, addr := range []netip.Addr{network.IPAddress, network.GlobalIPv6Address} {
				if addr.IsValid() && !slices.Contains(names[name], addr) {
					names[name] = append(names[name], addr)
				}
			}
		}
	}
	return names, nil
}

// queryTimeout lies above what package dns waits for the host's resolvers.
const queryTimeout = 10 * time.Second

// setResolver tells the control API who answers containers.
func (d *daemon) setResolver(r *dns.Server) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.resolver = r
}

// serveNames adds what the control API says about names.
func (d *daemon) serveNames(mux *http.ServeMux) {
	mux.HandleFunc("GET /v1/dns/query", func(w http.ResponseWriter, r *http.Request) {
		d.mu.Lock()
		resolver := d.resolver
		d.mu.Unlock()
		if resolver == nil {
			answer(w, http.StatusServiceUnavailable, map[string]string{"error": "the resolver has not started yet"}, d.Log)
			return
		}
		ctx, cancel := context.WithTimeout(r.Context(), queryTimeout)
		defer cancel()
		name, qtype := r.FormValue("name"), r.FormValue("type")
		e, err := resolver.Explain(ctx, name, qtype)
		if err != nil {
			answer(w, http.StatusBadRequest, map[string]string{"error": err.Error()}, d.Log)
			return
		}
		a := dnsAnswer(name, qtype, e)
		if len(e.Hidden) > 0 {
			a.HiddenBecause = d.whyHidden(e)
		}
		answer(w, http.StatusOK, a, d.Log)
	})
}

// dnsAnswer is an explanation as the API tells it.
func dnsAnswer(name, qtype string, e dns.Explanation) api.DNSAnswer {
	a := api.DNSAnswer{
		Name: name, Type: qtype, Rcode: e.Rcode, Records: e.Records, Hidden: e.Hidden, Source: string(e.Source), Lines: e.Lines,
		Age: e.Age, Left: e.Left, Took: e.Took, Completed: e.Completed, Error: e.Error, Servers: e.Servers, Search: e.Search,
	}
	if e.Server.IsValid() {
		a.Server = &e.Server
	}
	switch {
	case len(e.Lines) == 0:
	case e.Source == dns.FromHosts:
		a.File = system.HostsFile
	default:
		a.File = system.ResolverFile
	}
	return a
}
