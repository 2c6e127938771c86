package hostnet

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/portolan-net/portolan/internal/portolan"
)

// Period is the time between two looks at the machine's sockets. With the way to
// the daemon it is a third of the 200 ms in which a port is to be on the host.
const Period = 50 * time.Millisecond

// lingering is how long the host's services stay for a container that is about to
// start, or that is started again.
const lingering = 10 * time.Second

// Config is what a Watch needs.
type Config struct {
	Link   portolan.Link
	Engine string // the engine's socket
	Report func(portolan.HostNetwork)
	Log    *slog.Logger
}

// Watch follows the machine's own network. SetHostPorts may be called at any
// time, Run once.
type Watch struct {
	cfg      Config
	owners   *owners
	engine   *engine
	redirect *redirect
	last     *portolan.HostNetwork
	young    map[uint32]bool // sockets that the round before saw first

	wake    chan struct{} // something below has changed
	mu      sync.Mutex    // guards what follows
	used    bool
	soon    time.Time // till when it counts as used anyway
	host    []portolan.Listener
	waiting []chan struct{} // to be closed when the above is in force
}

// New looks at nothing yet.
func New(cfg Config) (*Watch, error) {
	owners, err := newOwners()
	if err != nil {
		return nil, err
	}
	return &Watch{
		cfg: cfg, owners: owners, engine: newEngine(cfg.Engine, cfg.Log), redirect: newRedirect(cfg.Link, cfg.Log),
		wake: make(chan struct{}, 1), used: true,
	}, nil
}

// HangUp stops hearing the engine's events for a moment, in which dockerd may end:
// it would wait five seconds for those who hear them.
func (w *Watch) HangUp() { w.engine.hangUp() }

// SetHostPorts takes the services of the host's loopback that containers on the
// host network shall find on the machine's: each with 127.0.0.1 or ::1. It returns
// when they do, or when ctx ends; with soon, a container is about to start.
func (w *Watch) SetHostPorts(ctx context.Context, ports []portolan.Listener, soon bool) {
	inForce := make(chan struct{})
	w.change(func() {
		w.host = ports
		w.waiting = append(w.waiting, inForce)
		if soon {
			w.soon = time.Now().Add(lingering)
		}
	})
	select {
	case <-inForce:
	case <-ctx.Done():
	}
}

// setUsed takes whether there are containers on the host network.
func (w *Watch) setUsed(used bool) {
	w.change(func() {
		if w.used && !used {
			w.soon = time.Now().Add(lingering)
		}
		w.used = used
	})
}

func (w *Watch) change(what func()) {
	w.mu.Lock()
	what()
	w.mu.Unlock()
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

// Run watches until ctx ends.
func (w *Watch) Run(ctx context.Context) error {
	if err := w.redirect.install(); err != nil {
		return err
	}
	defer w.redirect.close()
	var following sync.WaitGroup
	defer following.Wait()
	following.Go(func() {
		w.engine.follow(ctx, w.setUsed)
	})
	ticks := time.NewTicker(Period)
	defer ticks.Stop()
	for {
		again := ticks.C
		if used, err := w.round(ctx); err != nil {
			w.cfg.Log.Warn("look at the machine's sockets", "err", err)
		} else if !used {
			again = nil
		}
		select {
		case <-ctx.Done():
			return nil
		case <-w.wake:
		case <-again:
		}
	}
}

// round looks once, and reports whether to look again soon.
func (w *Watch) round(ctx context.Context) (bool, error) {
	w.mu.Lock()
	used := w.used || time.Now().Before(w.soon)
	now, host, waiting := portolan.HostNetwork{Used: used, Listeners: []portolan.Listener{}}, w.host, w.waiting
	w.waiting = nil
	w.mu.Unlock()
	defer func() {
		for _, inForce := range waiting {
			close(inForce)
		}
	}()
	if !now.Used {
		w.report(now)
		return false, w.redirect.set(ctx, nil, nil)
	}
	sockets, err := Sockets()
	if err != nil {
		return true, err
	}
	w.owners.update(sockets)
	now.Listeners = w.theirs(sockets)
	w.report(now)
	return true, w.redirect.set(ctx, host, sockets)
}

func (w *Watch) report(now portolan.HostNetwork) {
	if w.last == nil || w.last.Used != now.Used || !slices.Equal(w.last.Listeners, now.Listeners) {
		w.last = &now
		w.cfg.Report(now)
	}
}

// theirs are the containers' ports that belong on the host, sorted. A UDP port of
// the kernel's choice is mostly a client's, and soon gone: it counts from the
// second look on.
func (w *Watch) theirs(sockets []Socket) []portolan.Listener {
	first, last := outgoing()
	young, found := map[uint32]bool{}, []portolan.Listener{}
	for _, s := range sockets {
		owner := w.owners.known[s.Inode]
		if !owner.theirs {
			continue
		}
		if port := s.Addr.Port(); s.Proto == portolan.UDP && port >= first && port <= last {
			_, older := w.young[s.Inode]
			young[s.Inode] = true
			if !older {
				continue
			}
		}
		for _, l := range s.Listeners() {
			if addr, ok := w.place(l.Addr.Addr()); ok {
				l.Addr, l.Container = netip.AddrPortFrom(addr, l.Addr.Port()), owner.container
				found = append(found, l)
			}
		}
	}
	w.young = young
	slices.SortFunc(found, compare)
	return slices.CompactFunc(found, func(a, b portolan.Listener) bool { return a.Proto == b.Proto && a.Addr == b.Addr })
}

// place is where on the host a port belongs that waits on addr in the machine:
// what is the machine's own address here, is any of the host's there. Addresses
// of the engine's networks, and those that the machine does not have, stay here.
func (w *Watch) place(addr netip.Addr) (netip.Addr, bool) {
	switch {
	case addr.IsUnspecified(), addr.IsLoopback():
		return addr, true
	case addr == w.cfg.Link.Machine().V4:
		return netip.IPv4Unspecified(), true
	case addr == w.cfg.Link.Machine().V6:
		return netip.IPv6Unspecified(), true
	}
	return netip.Addr{}, false
}

func compare(a, b portolan.Listener) int {
	if a.Proto != b.Proto {
		return int(a.Proto) - int(b.Proto)
	}
	return a.Addr.Compare(b.Addr)
}

// outgoing is the kernel's range of ports for connections out.
func outgoing() (first, last uint16) {
	text, err := os.ReadFile("/proc/sys/net/ipv4/ip_local_port_range")
	if err == nil {
		_, err = fmt.Sscan(string(text), &first, &last)
	}
	if err != nil {
		return 32768, 60999 // the kernel's default
	}
	return first, last
}
