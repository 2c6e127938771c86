package router

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"slices"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/portolan-net/portolan/internal/datapath"
	"github.com/portolan-net/portolan/internal/mmsg"
	"github.com/portolan-net/portolan/internal/portolan"
	"github.com/portolan-net/portolan/internal/scarce"
	"github.com/portolan-net/portolan/internal/socket"
)

// Datapath carries the machine's flows with the descriptors of a helper. It
// implements datapath.Machine, from Attach to Close, whether Run runs or not.
type Datapath struct {
	link   portolan.Link
	log    *slog.Logger
	helper *helper
	pool   *pool

	namespaces [2]*os.File // network and user, for the next helper

	tun  *descriptor
	tcp  [2]*descriptor // listeners for IPv4, IPv6
	udp  [2]*descriptor // IPv4, IPv6
	own  []netip.Addr   // the router's addresses
	last netip.Addr     // the link's IPv4 broadcast address

	offload   *mmsg.Offload
	replies   replySockets
	dialled   dialledUDP
	sources   atomic.Pointer[[]netip.Prefix]
	networks  scarce.Networks // the same, to share what is scarce
	flows     *scarce.Limit   // of relayed TCP connections, whoever has begun them
	short     scarce.Seldom
	fragments atomic.Uint32 // the last fragment identification
}

var _ datapath.Machine = (*Datapath)(nil)

// Attach fetches descriptors from the helper that listens on socketPath. What a
// daemon before left unread is dropped: its connections are long given up.
func Attach(ctx context.Context, socketPath string, link portolan.Link, log *slog.Logger) (*Datapath, error) {
	if err := errors.Join(ctx.Err(), link.Validate()); err != nil {
		return nil, err
	}
	h := &helper{path: socketPath}
	fds, err := h.request(wordAttach)
	if err != nil {
		return nil, err
	}
	d := &Datapath{link: link, log: log, helper: h, pool: newPool(h, log), last: broadcast(link.V4)}
	d.replies.pool = d.pool
	d.flows = scarce.NewConnections(&d.networks)
	for _, pair := range []portolan.Pair{link.Gateway(), link.DNS(), link.Host()} {
		d.own = append(d.own, pair.V4, pair.V6)
	}
	if err := d.adopt(fds); err != nil {
		return nil, errors.Join(err, d.Close())
	}
	return d, nil
}

// adopt takes the descriptors of an attach.
func (d *Datapath) adopt(fds []int) error {
	if len(fds) != 1+len(listenerKinds) {
		closeAll(fds)
		return fmt.Errorf("attach to router: got %d descriptors, want %d; is the helper of another version?", len(fds), 1+len(listenerKinds))
	}
	drain(fds[0])
	drain(fds[3])
	drain(fds[4])
	d.tun = &descriptor{fd: fds[0]}
	for i := range d.tcp {
		d.tcp[i] = &descriptor{fd: fds[1+i]}
		socket.TuneListener(fds[1+i])
		d.udp[i] = &descriptor{fd: fds[3+i]}
	}
	for _, k := range listenerKinds {
		if err := d.pool.fill(k); err != nil {
			return err
		}
	}
	namespaces, err := d.helper.request(wordNamespaces)
	if err != nil {
		return err
	}
	if len(namespaces) != len(d.namespaces) {
		closeAll(namespaces)
		return fmt.Errorf("attach to router: got %d namespaces, want %d", len(namespaces), len(d.namespaces))
	}
	for i, fd := range namespaces {
		d.namespaces[i] = os.NewFile(uintptr(fd), "namespace")
	}
	d.helper.patience = replacePatience
	return nil
}

// drain reads a non-blocking descriptor empty.
func drain(fd int) {
	buf := make([]byte, maxPacket+1)
	for {
		if _, err := unix.Read(fd, buf); err != nil && !errors.Is(err, unix.EINTR) {
			return
		}
	}
}

// SetSources says which source addresses the machine has: the engine's subnets
// and the machine's own addresses. The link's are always in. Until the first
// call every source is accepted but the router's own addresses.
func (d *Datapath) SetSources(sources []netip.Prefix) {
	if sources == nil {
		d.sources.Store(nil)
		return
	}
	sources = slices.Clone(sources)
	d.sources.Store(&sources)
	d.networks.Set(sources)
}

// SetOffload says what tells whether datagrams are joined; before Run.
func (d *Datapath) SetOffload(o *mmsg.Offload) { d.offload, d.replies.offload = o, o }

// CheckOffload tries whether datagrams can be joined in the router.
func (d *Datapath) CheckOffload() error {
	return mmsg.Check(func(six bool) (int, error) {
		k := udp4
		if six {
			k = udp6
		}
		fd, err := d.pool.get(k)
		if err != nil {
			return -1, err
		}
		// Else markUDP6 leads to the machine.
		if err := unix.BindToDevice(fd, "lo"); err != nil {
			return -1, errors.Join(fmt.Errorf("bind to lo: %w", err), unix.Close(fd))
		}
		return fd, nil
	})
}

// Networks are the networks that SetSources named last.
func (d *Datapath) Networks() *scarce.Networks { return &d.networks }

// Flows counts the TCP connections of containers. Those to published ports may
// enter as well.
func (d *Datapath) Flows() *scarce.Limit { return d.flows }

// known reports whether a packet of the machine may have that source.
func (d *Datapath) known(src netip.Addr) bool {
	if slices.Contains(d.own, src) || src.IsLinkLocalUnicast() && src.Is6() {
		return false
	}
	sources := d.sources.Load()
	if sources == nil || d.link.Contains(src) {
		return true
	}
	return slices.ContainsFunc(*sources, func(p netip.Prefix) bool { return p.Contains(src) })
}

func (d *Datapath) isBroadcast(addr netip.Addr) bool { return addr == d.last }

// broadcast is the last address of an IPv4 network.
func broadcast(p netip.Prefix) netip.Addr {
	addr := p.Addr().As4()
	for bit := p.Bits(); bit < 32; bit++ {
		addr[bit/8] |= 0x80 >> (bit % 8)
	}
	return netip.AddrFrom4(addr)
}

// Run delivers flows to handler until ctx ends, which is no error, or the router
// is gone. It returns when every flow has ended. It is called once.
func (d *Datapath) Run(ctx context.Context, handler datapath.Handler) error {
	tasks, ctx := errgroup.WithContext(ctx)
	held := newHeldTable(&d.networks, d.flows)
	held.handler, held.write, held.refuse, held.log = handler, d.writeSlow, d.refuseTCP, d.log
	tasks.Go(func() error { return d.serveSlow(ctx, handler, held) })
	tasks.Go(func() error { return d.serveUDP(ctx, handler) })
	tasks.Go(func() error { return d.pool.run(ctx) })
	tasks.Go(func() error { return d.replies.run(ctx) })
	err := tasks.Wait()
	held.close()
	return err
}

// exhausted reports that descriptors or memory are short, which passes.
func exhausted(err error) bool {
	return errors.Is(err, unix.EMFILE) || errors.Is(err, unix.ENFILE) || errors.Is(err, unix.ENOBUFS) || errors.Is(err, unix.ENOMEM)
}

func pause(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	}
}

// Stop tells the helper to end, and with it the router once the machine is gone.
func (d *Datapath) Stop() error {
	_, err := d.helper.request(wordStop)
	return err
}

// Close releases the descriptors, after Run returned. The router stays, for
// another daemon.
func (d *Datapath) Close() error {
	d.helper.close()
	d.replies.close()
	d.pool.close()
	var err error
	for _, watched := range []*descriptor{d.tun, d.tcp[0], d.tcp[1], d.udp[0], d.udp[1]} {
		if watched != nil {
			err = errors.Join(err, watched.Close())
		}
	}
	for _, file := range d.namespaces {
		if file != nil {
			err = errors.Join(err, file.Close())
		}
	}
	return err
}
