package daemon

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/portolan-net/portolan/internal/api"
	"github.com/portolan-net/portolan/internal/portolan"
	"github.com/portolan-net/portolan/internal/publish"
)

// addedPorts are the ports that `portolan ports add` published. Theory of
// operation: each is a wish, kept in a file until its container is removed. After
// each event of the engine every wish is compared with what is: a running
// container's ports are published at its present address, a stopped one's are not.
type addedPorts struct {
	table      *publish.Table
	containers *containers
	path       string // the wishes' file
	log        *slog.Logger

	mu     sync.Mutex // held while wishes are made true; guards the one below
	wishes []*wish
}

// wish is one added port on one address of the host.
type wish struct {
	id      string // of the container
	host    netip.AddrPort
	proto   portolan.Proto
	port    uint16
	binding portolan.Binding // what stands; zero for nothing
	problem string           // why nothing stands though the container runs
	name    string           // of the container, with problem
}

// eventsPause is the time between attempts to hear the engine's events.
const eventsPause = time.Second

// newAddedPorts goes on with the wishes of the daemon before.
func newAddedPorts(table *publish.Table, c *containers, path string, log *slog.Logger) *addedPorts {
	a := &addedPorts{table: table, containers: c, path: path, log: log}
	if err := a.load(); err != nil {
		log.Warn("added ports of earlier are not known; add them again", "error", err)
	}
	return a
}

// run follows the engine's events until ctx ends.
func (a *addedPorts) run(ctx context.Context) {
	for ctx.Err() == nil {
		err := a.containers.events(ctx, func() { a.reconcile(ctx) })
		a.log.Debug("engine tells no events", "error", err)
		select {
		case <-ctx.Done():
		case <-time.After(eventsPause):
		}
	}
}

// reconcile makes the wishes true.
func (a *addedPorts) reconcile(ctx context.Context) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.wishes) == 0 {
		return
	}
	all, err := a.containers.list(ctx)
	if err != nil {
		a.log.Warn("added ports may be out of date", "error", err)
		return
	}
	before := len(a.wishes)
	a.wishes = slices.DeleteFunc(a.wishes, func(w *wish) bool {
		i := slices.IndexFunc(all, func(c container) bool { return c.ID == w.id })
		if i < 0 {
			a.endLocked(ctx, w)
			return true
		}
		w.problem = ""
		if err := a.grantLocked(ctx, w, all[i], true); err != nil {
			w.problem, w.name = err.Error(), all[i].name()
			a.log.Warn("added port is not published", "host", w.host, "container", all[i].name(), "error", err)
		}
		return false
	})
	if len(a.wishes) != before {
		a.saveLocked()
	}
}

// grantLocked publishes w at its container's present address, or nowhere. One of
// before may wait for its address of the host.
func (a *addedPorts) grantLocked(ctx context.Context, w *wish, c container, before bool) error {
	var want portolan.Binding
	if addr := addressFor(c, w.host.Addr()); c.State == "running" && addr.IsValid() {
		want = portolan.Binding{Proto: w.proto, Host: w.host, Container: netip.AddrPortFrom(addr, w.port)}
	}
	if want == w.binding {
		return nil
	}
	a.endLocked(ctx, w)
	if want == (portolan.Binding{}) {
		return nil
	}
	if err := a.table.Add(ctx, want, before); err != nil {
		return err
	}
	w.binding = want
	return nil
}

func (a *addedPorts) endLocked(ctx context.Context, w *wish) {
	if w.binding != (portolan.Binding{}) {
		_ = a.table.Unpublish(ctx, w.binding) // returns nil always
		w.binding = portolan.Binding{}
	}
}

// addressFor chooses the container's address: of the listener's family if there
// is one, else any.
func addressFor(c container, listener netip.Addr) netip.Addr {
	addrs := c.addrs()
	slices.SortFunc(addrs, netip.Addr.Compare)
	for _, addr := range addrs {
		if addr.Is4() == listener.Is4() {
			return addr
		}
	}
	if len(addrs) > 0 {
		return addrs[0]
	}
	return netip.Addr{}
}

// badRequest is an error of the one who asked.
type badRequest struct{ error }

// hosts are the addresses to listen on: both families where none was named.
func hosts(r api.PortRequest) []netip.AddrPort {
	if r.Host.IsValid() {
		return []netip.AddrPort{netip.AddrPortFrom(r.Host.Unmap(), r.HostPort)}
	}
	return []netip.AddrPort{netip.AddrPortFrom(netip.IPv4Unspecified(), r.HostPort), netip.AddrPortFrom(netip.IPv6Unspecified(), r.HostPort)}
}

// find returns the container of that name or id.
func (a *addedPorts) find(ctx context.Context, name string) (container, error) {
	all, err := a.containers.list(ctx)
	if err != nil {
		return container{}, err
	}
	for _, c := range all {
		if c.name() == name || c.ID == name {
			return c, nil
		}
	}
	const shortest = 4 // of an id, lest a mistyped name means one
	for _, c := range all {
		if len(name) >= shortest && strings.HasPrefix(c.ID, name) {
			return c, nil
		}
	}
	return container{}, badRequest{fmt.Errorf("no such container: %s; docker ps lists them", name)}
}

// add publishes; on an error nothing is.
func (a *addedPorts) add(ctx context.Context, r api.PortRequest) error {
	if r.HostPort == 0 || r.Port == 0 {
		return badRequest{errors.New("publish port: want a port of the host and one of the container")}
	}
	c, err := a.find(ctx, r.Container)
	if err != nil {
		return err
	}
	switch {
	case c.State != "running":
		return badRequest{fmt.Errorf("publish a port of %s: the container is not running", c.name())}
	case len(c.addrs()) == 0:
		return badRequest{fmt.Errorf("publish a port of %s: the container has no address of its own; is its network host or none?", c.name())}
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	var mine []*wish
	for _, host := range hosts(r) {
		w := &wish{id: c.ID, host: host, proto: r.Proto, port: r.Port}
		same := func(other *wish) bool { return other.proto == w.proto && other.host == w.host }
		err := a.grantLocked(ctx, w, c, false)
		if err == nil && slices.ContainsFunc(a.wishes, same) {
			continue // added before
		}
		if err != nil {
			for _, w := range mine {
				a.endLocked(ctx, w)
			}
			return err
		}
		mine = append(mine, w)
	}
	a.wishes = append(a.wishes, mine...)
	a.saveLocked()
	return nil
}

// remove ends what add published.
func (a *addedPorts) remove(ctx context.Context, r api.PortRequest) error {
	c, err := a.find(ctx, r.Container)
	if err != nil {
		return err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	before := len(a.wishes)
	a.wishes = slices.DeleteFunc(a.wishes, func(w *wish) bool {
		mine := w.id == c.ID && w.proto == r.Proto && slices.Contains(hosts(r), w.host) && (r.Port == 0 || r.Port == w.port)
		if mine {
			a.endLocked(ctx, w)
		}
		return mine
	})
	if len(a.wishes) == before {
		return badRequest{fmt.Errorf("port %d/%s of %s was not added; portolan ports lists those that were", r.HostPort, r.Proto, c.name())}
	}
	a.saveLocked()
	return nil
}

// servePorts adds the ports' part of the control API.
func (d *daemon) servePorts(mux *http.ServeMux) {
	mux.HandleFunc("GET /v1/ports", func(w http.ResponseWriter, r *http.Request) {
		answer(w, http.StatusOK, d.listPorts(r.Context()), d.Log)
	})
	mux.HandleFunc("POST /v1/ports", d.changePorts((*addedPorts).add))
	mux.HandleFunc("DELETE /v1/ports", d.changePorts((*addedPorts).remove))
}

// maxPortRequest bounds what is read of a request.
const maxPortRequest = 4 << 10

func (d *daemon) changePorts(do func(*addedPorts, context.Context, api.PortRequest) error) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		var request api.PortRequest
		err := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxPortRequest)).Decode(&request)
		if err != nil {
			err = badRequest{fmt.Errorf("read request: %w", err)}
		} else {
			d.mu.Lock()
			added := d.added
			d.mu.Unlock()
			if added == nil {
				err = errors.New("the machine is starting; try again in a moment")
			} else {
				err = do(added, r.Context(), request)
			}
		}
		var bad badRequest
		switch {
		case err == nil:
			answer(w, http.StatusOK, struct{}{}, d.Log)
		case errors.As(err, &bad):
			answer(w, http.StatusBadRequest, map[string]string{"error": err.Error()}, d.Log)
		case errors.Is(err, syscall.EADDRINUSE):
			answer(w, http.StatusConflict, map[string]string{"error": err.Error()}, d.Log)
		default:
			answer(w, http.StatusInternalServerError, map[string]string{"error": err.Error()}, d.Log)
		}
	}
}

// listPorts is the table with the containers' names, as far as the engine tells.
func (d *daemon) listPorts(ctx context.Context) []api.Port {
	d.mu.Lock()
	table, added := d.ports, d.added
	d.mu.Unlock()
	if table == nil {
		return []api.Port{}
	}
	ports := append(table.List(), added.waiting()...)
	named, err := added.containers.byAddr(ctx)
	if err != nil {
		d.Log.Warn("ports are listed without names", "error", err)
	}
	for i, port := range ports {
		if c, ok := named[port.Container.Addr()]; ok {
			ports[i].Name = c.name()
		}
	}
	added.containers.nameServices(ctx, ports)
	if h := d.hostNet.Load(); h != nil {
		ports = append(ports, added.containers.nameByID(ctx, h.list())...)
	}
	return ports
}
