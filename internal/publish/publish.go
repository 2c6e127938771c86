// Package publish holds the host's side of published ports: one listener for
// each binding of the engine, and the connections and datagrams that it takes to
// the container. It opens no socket inside the machine; datapath.Machine does.
// Package daemon imports it.
//
// Theory of operation. The agent tells of bindings (package agentlink), one for
// each process of the engine's userland proxy. A binding is keyed by protocol,
// host address and port.
//
//	state   listener  what ends it, or leads on
//	active  stands    Unpublish: gone. Release, AgentGone, AgentHere: kept
//	kept    stands    Publish or Renew with the same key: active, with the new
//	                  container. Publish of another one that needs the port, or
//	                  the end of Grace: gone
//	failed  none      (from Renew only) Renew listens again; Unpublish, the end
//	                  of Grace after Release or AgentGone: gone
//
// A kept binding goes on carrying connections, since with live-restore its
// container lives while the engine does not.
package publish

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/portolan-net/portolan/internal/api"
	"github.com/portolan-net/portolan/internal/datapath"
	"github.com/portolan-net/portolan/internal/mmsg"
	"github.com/portolan-net/portolan/internal/portolan"
	"github.com/portolan-net/portolan/internal/relay"
	"github.com/portolan-net/portolan/internal/scarce"
)

// DefaultGrace is how long the listener of a binding stands whose engine or
// agent is gone. A restart of dockerd with live-restore takes a few seconds.
const DefaultGrace = 30 * time.Second

// Config is what a Table needs. Link, Machine, Relay and Log must be set.
type Config struct {
	Link    portolan.Link
	Machine datapath.Machine
	// Relay moves bytes between the client's and the container's connection
	// until both directions have ended or ctx has, and then calls done. It does not
	// wait for that. relay.Start is one.
	Relay func(ctx context.Context, client, container datapath.Conn, done func(relay.Stats))
	Log   *slog.Logger
	// Labels returns the labels of the container that has an address, nil when
	// there is none. nil means that nobody knows labels.
	Labels func(ctx context.Context, container netip.Addr) (map[string]string, error)
	// Networks returns the engine's subnets and the addresses of the machine.
	// A client inside one of them is shown as the host. nil means none.
	Networks func() []netip.Prefix
	// ListenOn replaces the address that a binding asks for; asked when a listener
	// is made. nil keeps it.
	ListenOn func(netip.Addr) netip.Addr
	// Name returns the name of the container that has an address, "" when that is
	// not known. nil knows none.
	Name func(ctx context.Context, container netip.Addr) string
	// Changed hears, with the table locked, that what List returns may be another.
	// nil hears nothing.
	Changed func()
	// HostAddrs returns the host's own addresses; nil asks the system.
	HostAddrs func() []netip.Addr
	// Holder replaces HolderOf, for a process that may not look into others.
	Holder func(context.Context, portolan.Binding) string
	// Grace replaces DefaultGrace.
	Grace time.Duration
	// Connections and Sessions have a place for each TCP connection and UDP session,
	// of each client. nil has no bound.
	Connections, Sessions *scarce.Limit
	// Offload says whether datagrams are joined; nil never does.
	Offload *mmsg.Offload
	// UDPIdle and UDPSessions replace forward.DefaultIdle and
	// forward.DefaultMaxSessions.
	UDPIdle     time.Duration
	UDPSessions int
}

// Table holds the bindings. Its methods are safe for concurrent use.
type Table struct {
	cfg  Config
	open opener // how listeners are made

	serving sync.WaitGroup

	mu      sync.Mutex // guards the three below and every entry in entries
	entries map[key]*entry
	running map[*entry]context.CancelFunc // what is served still, unpublished ones too
	closed  bool
}

// key tells bindings apart: the engine never has two with the same.
type key struct {
	proto portolan.Proto
	host  netip.AddrPort
}

func keyOf(b portolan.Binding) key { return key{b.Proto, b.Host} }

// overlaps reports whether two keys want the same port of the same address.
func (k key) overlaps(other key) bool {
	a, b := k.host.Addr(), other.host.Addr()
	return k.proto == other.proto && k.host.Port() == other.host.Port() && a.Is4() == b.Is4() &&
		(a == b || a.IsUnspecified() || b.IsUnspecified())
}

// New returns an empty table. Close ends it.
func New(cfg Config) *Table {
	if cfg.Grace == 0 {
		cfg.Grace = DefaultGrace
	}
	if cfg.ListenOn == nil {
		cfg.ListenOn = func(addr netip.Addr) netip.Addr { return addr }
	}
	if cfg.Networks == nil {
		cfg.Networks = func() []netip.Prefix { return nil }
	}
	if cfg.Changed == nil {
		cfg.Changed = func() {}
	}
	if cfg.Holder == nil {
		cfg.Holder = func(ctx context.Context, b portolan.Binding) string { return HolderOf(ctx, b, nil) }
	}
	if cfg.HostAddrs == nil {
		cfg.HostAddrs = (&hostAddrs{}).get
	}
	return &Table{
		cfg: cfg, open: systemOpener,
		entries: map[key]*entry{}, running: map[*entry]context.CancelFunc{},
	}
}

// Publish listens for b on the host and returns when the listener stands. It
// takes over the listener of a kept binding, and does nothing for one that is
// active already. The error of a taken port wraps syscall.EADDRINUSE and names
// the holder where it can be found. A wildcard of IPv6 on a host without IPv6 is
// no error; List tells.
func (t *Table) Publish(ctx context.Context, b portolan.Binding) error {
	return t.stand(ctx, b, false)
}

// stand is Publish, for a binding that may have stood before.
func (t *Table) stand(ctx context.Context, b portolan.Binding, before bool) error {
	if err := check(b); err != nil {
		return err
	}
	err := t.publish(ctx, b, before)
	if isTaken(err) {
		return fmt.Errorf("%w%s", err, t.holder(ctx, b))
	}
	return err
}

// Renew is Publish for a binding that the engine believes to stand: it waits for
// an address that the host does not have now, and after another failure List shows
// it with the error, and the next Renew tries again.
func (t *Table) Renew(ctx context.Context, b portolan.Binding) error {
	err := t.stand(ctx, b, true)
	if err == nil || check(b) != nil {
		return err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if e := t.entries[keyOf(b)]; t.closed || (e != nil && e.listener != nil) {
		return err
	}
	e := newEntry(b)
	e.problem = err.Error()
	t.entries[keyOf(b)] = e
	return err
}

// publish is stand without the search for a port's holder.
func (t *Table) publish(ctx context.Context, b portolan.Binding, before bool) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return fmt.Errorf("publish %s: the daemon is stopping", b)
	}
	k := keyOf(b)
	if e := t.entries[k]; e != nil && e.listener != nil {
		if !e.kept() && e.binding != b {
			return taken(b)
		}
		e.confirm(b)
		t.cfg.Changed()
		return nil
	}
	for other, e := range t.entries {
		if e.kept() && other.overlaps(k) {
			t.removeLocked(e)
		}
	}
	e := newEntry(b)
	e.stood = before
	if err := t.listen(ctx, e); err != nil {
		return err
	}
	t.entries[k] = e
	t.cfg.Changed()
	return nil
}

// Add is Publish for a binding that no engine speaks for: only Unpublish ends it.
// One that was added before may wait for its address, as after Renew.
func (t *Table) Add(ctx context.Context, b portolan.Binding, before bool) error {
	t.mu.Lock()
	e := t.entries[keyOf(b)]
	theirs := e != nil && e.listener != nil && !e.added && !e.kept()
	t.mu.Unlock()
	if theirs { // the engine's, even if it is the same
		return fmt.Errorf("%w%s", taken(b), t.holder(ctx, b))
	}
	if err := t.stand(ctx, b, before); err != nil {
		return err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if e := t.entries[keyOf(b)]; e != nil && e.binding == b {
		e.added = true
		e.endGrace()
	}
	return nil
}

// Unpublish closes the listener of b. Established TCP connections go on; they
// end early when the container has gone without a word. A binding that is not
// there is no error.
func (t *Table) Unpublish(_ context.Context, b portolan.Binding) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if e := t.entries[keyOf(b)]; e != nil && e.binding == b {
		t.removeLocked(e)
	}
	return nil
}

// Release keeps the listener of b for the grace period: its engine is gone and
// may come back.
func (t *Table) Release(_ context.Context, b portolan.Binding) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if e := t.entries[keyOf(b)]; e != nil && e.binding == b {
		t.keepLocked(e)
	}
	return nil
}

// AgentGone keeps every binding for the grace period: nobody speaks for them.
func (t *Table) AgentGone() {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, e := range t.entries {
		t.keepLocked(e)
	}
}

// AgentHere says that an agent has come, which now renews what it knows of. What
// it does not renew within a grace period from now ends.
func (t *Table) AgentHere() {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, e := range t.entries {
		e.endGrace()
		t.keepLocked(e)
	}
}

// keepLocked starts the grace period of e, unless it runs already.
func (t *Table) keepLocked(e *entry) {
	if e.kept() || e.added || t.closed {
		return
	}
	var timer *time.Timer
	timer = time.AfterFunc(t.cfg.Grace, func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		if e.grace == timer && t.entries[keyOf(e.binding)] == e {
			t.cfg.Log.Info("published port ends: its engine did not come back", "binding", e.binding)
			t.removeLocked(e)
		}
	})
	e.grace = timer
}

func (t *Table) removeLocked(e *entry) {
	delete(t.entries, keyOf(e.binding))
	e.close()
	t.cfg.Changed()
}

// List returns the bindings, ordered by protocol, port and address.
func (t *Table) List() []api.Port {
	t.mu.Lock()
	defer t.mu.Unlock()
	here := t.cfg.HostAddrs()
	ports := make([]api.Port, 0, len(t.entries))
	for _, e := range t.entries {
		port := api.Port{Binding: e.binding, Since: e.since, Error: e.problem, Added: e.added}
		if e.udp != nil {
			u := e.udp.Traffic()
			port.Traffic = api.Traffic{Connections: u.Sessions, Open: u.Open, Received: u.Received, Sent: u.Sent}
		} else {
			port.Traffic = e.conns.traffic()
		}
		if port.Error == "" && vanished(e.binding.Host.Addr(), here) {
			port.Error = fmt.Sprintf("%s is no address of the host now; the port comes back with it", e.binding.Host.Addr())
		}
		ports = append(ports, port)
	}
	slices.SortFunc(ports, func(a, b api.Port) int {
		return cmp.Or(
			cmp.Compare(a.Proto, b.Proto),
			cmp.Compare(a.Host.Port(), b.Host.Port()),
			a.Host.Addr().Compare(b.Host.Addr()))
	})
	return ports
}

// vanished reports whether a listener waits for its address: the kernel keeps it,
// and connections come again with the address.
func vanished(listener netip.Addr, host []netip.Addr) bool {
	return !listener.IsUnspecified() && !listener.IsLoopback() && !slices.Contains(host, listener.WithZone(""))
}

// Close ends all listeners, sessions and connections and waits for them.
func (t *Table) Close() {
	t.mu.Lock()
	t.closed = true
	for _, e := range t.entries {
		t.removeLocked(e)
	}
	for _, end := range t.running {
		end()
	}
	t.mu.Unlock()
	t.serving.Wait()
}

// check refuses what no listener could be made of.
func check(b portolan.Binding) error {
	switch {
	case b.Proto != portolan.TCP && b.Proto != portolan.UDP:
		return fmt.Errorf("publish %s: only tcp and udp can be published", b)
	case !b.Host.IsValid() || b.Host.Port() == 0 || b.Host.Addr().Is4In6():
		return fmt.Errorf("publish %s: want an address and port of the host", b)
	case !b.Container.IsValid() || b.Container.Port() == 0 || b.Container.Addr().Is4In6():
		return fmt.Errorf("publish %s: want an address and port of the container", b)
	}
	return nil
}

// hostAddrs remembers the host's addresses for a moment, so that a burst of
// connections does not ask for them one by one.
type hostAddrs struct {
	mu    sync.Mutex // guards the two below
	addrs []netip.Addr
	until time.Time
}

// hostAddrsLife is how long a new address of the host may go unnoticed; until
// then a connection from it shows that address instead of the link's.
const hostAddrsLife = 2 * time.Second

func (h *hostAddrs) get() []netip.Addr {
	h.mu.Lock()
	defer h.mu.Unlock()
	if time.Now().Before(h.until) {
		return h.addrs
	}
	all, err := net.InterfaceAddrs()
	if err != nil {
		return h.addrs // the last ones known
	}
	h.addrs, h.until = nil, time.Now().Add(hostAddrsLife)
	for _, a := range all {
		if n, ok := a.(*net.IPNet); ok {
			if addr, ok := netip.AddrFromSlice(n.IP); ok {
				h.addrs = append(h.addrs, addr.Unmap())
			}
		}
	}
	return h.addrs
}

func isTaken(err error) bool { return errors.Is(err, errTaken) }
