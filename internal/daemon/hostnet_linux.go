package daemon

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/portolan-net/portolan/internal/agent"
	"github.com/portolan-net/portolan/internal/api"
	"github.com/portolan-net/portolan/internal/datapath"
	"github.com/portolan-net/portolan/internal/hostnet"
	"github.com/portolan-net/portolan/internal/portolan"
	"github.com/portolan-net/portolan/internal/publish"
	"github.com/portolan-net/portolan/internal/settings"
)

// How often the host is looked at while containers use the machine's own network:
// for services on its loopback, and for ports that were taken and may be free now.
const (
	servicesLook = 200 * time.Millisecond
	takenLook    = 10 * servicesLook
)

// hostNetwork joins the machine's own network with the host's. Theory of
// operation: the agent tells which ports containers have opened there; after each
// such word, and while some are missing, the table of host listeners is made the
// same. Meanwhile the host's own services are counted, and told to the agent.
type hostNetwork struct {
	*daemon
	table *publish.Table
	log   *slog.Logger

	missing map[portolan.Binding]string // why; what the log has been told
	beyond  bool                        // there are more ports than may be, and the log knows
	enabled bool                        // by the setting, when the table was last made true
	binding settings.PortBinding        // the setting, when the listeners were last moved
	sent    []portolan.Listener         // what the agent knows of the host; nil for nothing
	sockets []hostnet.Socket            // of the host, when services last looked; their owners do not change
	own     map[uint32]bool             // of them, this process's

	wake    chan struct{} // something below has changed
	mu      sync.Mutex    // guards what follows
	told    *portolan.HostNetwork
	anew    bool            // an agent has come, which knows nothing
	waiting []chan struct{} // of containers that start when the agent knows the host's services
}

// newHostNetwork makes the table with what is like that of published ports in cfg.
func newHostNetwork(d *daemon, cfg publish.Config) *hostNetwork {
	h := &hostNetwork{daemon: d, log: d.Log.With("part", "host-network"), missing: map[portolan.Binding]string{}, wake: make(chan struct{}, 1)}
	cfg.Machine = throughAgent{cfg.Machine, d.Profile.SharedDir()}
	cfg.Labels, cfg.Log = nil, h.log
	h.binding = d.values.Load().PortBinding
	h.table = publish.New(cfg)
	return h
}

func (h *hostNetwork) change(what func()) {
	h.mu.Lock()
	what()
	h.mu.Unlock()
	select {
	case h.wake <- struct{}{}:
	default:
	}
}

// set takes what the agent says.
func (h *hostNetwork) set(n portolan.HostNetwork) { h.change(func() { h.told = &n }) }

// agentHere and agentGone: the listeners wait for the next agent, as those of
// published ports do.
func (h *hostNetwork) agentHere() {
	h.table.AgentHere()
	h.change(func() { h.anew = true })
}

func (h *hostNetwork) agentGone() { h.table.AgentGone() }

// run returns when ctx ends, and its listeners with it.
func (h *hostNetwork) run(ctx context.Context) {
	defer h.table.Close()
	look := time.NewTicker(servicesLook)
	defer look.Stop()
	tried := time.Now()
	for {
		again := look.C
		if !h.serve(ctx) {
			again = nil
		}
		select {
		case <-ctx.Done():
			return
		case <-h.wake:
			h.reconcile(ctx)
		case <-again:
			if now := h.values.Load().PortBinding; now != h.binding {
				h.binding = now
				h.table.Rebind(ctx)
			}
			if h.enabled != h.values.Load().HostNetwork || len(h.missing) > 0 && time.Since(tried) > takenLook {
				tried = time.Now()
				h.reconcile(ctx)
			}
		}
	}
}

// serve tells the agent of the host's services, if containers may need them, and
// reports whether they may.
func (h *hostNetwork) serve(ctx context.Context) bool {
	h.mu.Lock()
	used, anew, waiting := h.told != nil && h.told.Used, h.anew, h.waiting
	h.anew, h.waiting = false, nil
	h.mu.Unlock()
	if anew {
		h.sent = nil
	}
	if used || len(waiting) > 0 {
		h.tellServices(ctx, len(waiting) > 0)
	}
	for _, told := range waiting {
		close(told)
	}
	return used
}

// prepare returns when the agent knows the host's services, for a container that
// is about to start.
func (h *hostNetwork) prepare(ctx context.Context) {
	if v := h.values.Load(); !v.HostNetwork || !v.HostLoopback {
		return
	}
	told := make(chan struct{})
	h.change(func() { h.waiting = append(h.waiting, told) })
	select {
	case <-told:
	case <-ctx.Done():
	}
}

// wanted are the bindings of what the agent told, and each one's container.
func (h *hostNetwork) wanted() map[portolan.Binding]string {
	wanted := map[portolan.Binding]string{}
	h.mu.Lock()
	told := h.told
	h.mu.Unlock()
	if told == nil || !h.values.Load().HostNetwork {
		return wanted
	}
	everywhere := func(l portolan.Listener) bool {
		l.Addr = netip.AddrPortFrom(unspecified(l.Addr.Addr()), l.Addr.Port())
		return slices.ContainsFunc(told.Listeners, func(o portolan.Listener) bool { return o.Proto == l.Proto && o.Addr == l.Addr })
	}
	for _, l := range told.Listeners {
		addr := l.Addr.Addr()
		switch {
		case !h.mode().Carries(addr):
		case addr.IsUnspecified():
			to := netip.AddrPortFrom(h.link().Machine().For(addr), l.Addr.Port())
			wanted[portolan.Binding{Proto: l.Proto, Host: l.Addr, Container: to}] = l.Container
		case addr.IsLoopback() && !everywhere(l): // else the host has it at that address already
			wanted[portolan.Binding{Proto: l.Proto, Host: l.Addr, Container: l.Addr}] = l.Container
		}
	}
	return wanted
}

func unspecified(addr netip.Addr) netip.Addr {
	if addr.Is4() {
		return netip.IPv4Unspecified()
	}
	return netip.IPv6Unspecified()
}

// reconcile makes the listeners what they should be. A port that can't be had is
// told once; the container has it in the machine all the same.
func (h *hostNetwork) reconcile(ctx context.Context) {
	h.mu.Lock()
	known := h.told != nil
	h.mu.Unlock()
	if !known {
		return // a new daemon, or a new agent, whose first word is to come
	}
	h.enabled = h.values.Load().HostNetwork
	wanted := h.wanted()
	most := maxHostPorts()
	beyond := h.bounded(wanted, most)
	if beyond > 0 && !h.beyond {
		h.log.Warn("too many ports on the host network for the daemon's descriptors; raise them (ulimit -n)", "carried", most, "left", beyond)
	}
	h.beyond = beyond > 0
	for _, port := range h.table.List() {
		if _, ok := wanted[port.Binding]; !ok {
			_ = h.table.Unpublish(ctx, port.Binding) // returns nil always
		}
	}
	missing := map[portolan.Binding]string{}
	for b := range wanted {
		err := h.table.Renew(ctx, b)
		if err == nil {
			continue
		}
		missing[b] = err.Error()
		if h.missing[b] == "" {
			h.log.Warn("port of a container on the host network is not on the host", "port", b.Host, "proto", b.Proto, "error", err)
		}
	}
	h.missing = missing
}

// tellServices tells the agent what waits on the host's loopback, where that has
// changed. What this process itself listens on belongs to containers, or is not
// for them. With soon they are told anyway: a container is about to start.
func (h *hostNetwork) tellServices(ctx context.Context, soon bool) {
	services, err := h.services()
	if err != nil {
		h.log.Debug("look at the host's sockets", "error", err)
		return
	}
	if !soon && h.sent != nil && slices.Equal(h.sent, services) {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, statusTimeout)
	defer cancel()
	if err := agent.SetHostPorts(ctx, h.Profile.SharedDir(), services, soon); err != nil {
		h.log.Debug("tell the host's services", "error", err)
		return
	}
	h.sent = services
}

// services lists them, sorted, each with 127.0.0.1 or ::1.
func (h *hostNetwork) services() ([]portolan.Listener, error) {
	found := []portolan.Listener{}
	if v := h.values.Load(); !v.HostNetwork || !v.HostLoopback {
		return found, nil
	}
	sockets, err := hostnet.Sockets()
	if err != nil {
		return nil, err
	}
	if !slices.Equal(h.sockets, sockets) {
		h.sockets, h.own = sockets, hostnet.OwnSockets()
	}
	first := firstOutgoing()
	for _, s := range sockets {
		if h.own[s.Inode] || s.Proto == portolan.UDP && s.Addr.Port() >= first {
			continue // the latter are mostly clients
		}
		for _, l := range s.Listeners() {
			if at, ok := loopback(l.Addr.Addr()); ok && h.mode().Carries(at) {
				found = append(found, portolan.Listener{Proto: l.Proto, Addr: netip.AddrPortFrom(at, l.Addr.Port())})
			}
		}
	}
	slices.SortFunc(found, func(a, b portolan.Listener) int {
		if a.Proto != b.Proto {
			return int(a.Proto) - int(b.Proto)
		}
		return a.Addr.Compare(b.Addr)
	})
	return slices.Compact(found), nil
}

// loopback is the address at which programs of this host find what waits on addr.
func loopback(addr netip.Addr) (netip.Addr, bool) {
	v4 := netip.AddrFrom4([4]byte{127, 0, 0, 1})
	switch addr {
	case v4, netip.IPv4Unspecified():
		return v4, true
	case netip.IPv6Loopback(), netip.IPv6Unspecified():
		return netip.IPv6Loopback(), true
	}
	return netip.Addr{}, false
}

// firstOutgoing is where the host's ports for connections out begin.
func firstOutgoing() uint16 {
	var first uint16 = 32768 // the kernel's default
	if text, err := os.ReadFile("/proc/sys/net/ipv4/ip_local_port_range"); err == nil {
		_, _ = fmt.Sscan(string(text), &first)
	}
	return first
}

// list is what `portolan ports` shows of the host network.
func (h *hostNetwork) list() []api.Port {
	wanted, ports := h.wanted(), h.table.List()
	for i, port := range ports {
		ports[i].HostNetwork, ports[i].ContainerID = true, wanted[port.Binding]
	}
	return ports
}

// throughAgent dials ports of the machine's loopback through the agent.
type throughAgent struct {
	datapath.Machine
	sharedDir string
}

func (m throughAgent) DialTCP(ctx context.Context, src netip.Addr, dst netip.AddrPort) (datapath.Conn, error) {
	if !dst.Addr().IsLoopback() {
		return m.Machine.DialTCP(ctx, src, dst)
	}
	conn, err := hostnet.Dial(ctx, m.sharedDir, portolan.Listener{Proto: portolan.TCP, Addr: dst})
	if err != nil {
		return nil, err
	}
	return conn.(*net.TCPConn), nil // what Dial promises
}

func (m throughAgent) DialUDP(ctx context.Context, src, dst netip.AddrPort) (net.Conn, error) {
	if !dst.Addr().IsLoopback() {
		return m.Machine.DialUDP(ctx, src, dst)
	}
	return hostnet.Dial(ctx, m.sharedDir, portolan.Listener{Proto: portolan.UDP, Addr: dst})
}

// nameByID fills in the names of containers that are known by their ids.
func (c *containers) nameByID(ctx context.Context, ports []api.Port) []api.Port {
	if len(ports) == 0 {
		return ports
	}
	all, err := c.list(ctx)
	if err != nil {
		return ports // listed without names, as the caller has told
	}
	for i, port := range ports {
		for _, one := range all {
			if port.ContainerID != "" && one.ID == port.ContainerID {
				ports[i].Name = one.name()
			}
		}
	}
	return ports
}
