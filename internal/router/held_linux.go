package router

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/portolan-net/portolan/internal/datapath"
	"github.com/portolan-net/portolan/internal/portolan"
	"github.com/portolan-net/portolan/internal/scarce"
	"github.com/portolan-net/portolan/internal/socket"
)

// A held SYN, by its four-tuple:
//
//	state    event                    what happens                        next
//	(none)   SYN                      OpenTCP begins                      opening
//	opening  same SYN again           nothing; the time-out moves on      opening
//	opening  SYN with a new ISN       ctx ends; OpenTCP begins anew       opening
//	opening  no SYN for long          ctx ends                            (none)
//	opening  OpenTCP fails            reset, ICMP error or nothing        (none)
//	opening  OpenTCP succeeds         SYN into slow0                      given
//	given    same SYN again           SYN into slow0                      given
//	given    SYN with a new ISN       Endpoint.Close; OpenTCP anew        opening
//	given    accepted by a listener   Endpoint.Serve                      (none)
//	given    acceptLimit passes       Endpoint.Close                      (none)
//
// A connection accepted without a held SYN belongs to a daemon that died: it is
// reset.
const (
	// maxHeld bounds the dials of the daemon, each with a descriptor on the host.
	maxHeld = 4096
	// A container that scans a black hole must not take all, nor one that forges
	// the addresses of its network.
	maxHeldPerSource  = 1024
	maxHeldPerNetwork = 2048
	// acceptLimit is many round trips inside one computer; the handshake lacks
	// only the machine's ACK, unless the machine gave up.
	acceptLimit = 10 * time.Second
	// minPatience is more than Linux' first retransmission takes (1 s, then
	// four more at 1 s distance); afterwards distances at most double.
	minPatience    = 4 * time.Second
	patienceFactor = 3
)

// heldTable holds SYNs.
type heldTable struct {
	handler datapath.Handler
	write   func(packet []byte)            // into slow0
	refuse  func(syn []byte, reason error) // answers a SYN
	log     *slog.Logger
	tasks   sync.WaitGroup // OpenTCP and Serve
	places  *scarce.Limit  // of held SYNs
	flows   *scarce.Limit  // of held SYNs, of flows that stand, and of others than ours
	full    scarce.Seldom

	mu   sync.Mutex // guards held
	held map[portolan.Flow]*heldSYN
}

func newHeldTable(networks *scarce.Networks, flows *scarce.Limit) *heldTable {
	return &heldTable{
		places: scarce.NewLimit(scarce.Bounds{All: maxHeld, Network: maxHeldPerNetwork, Source: maxHeldPerSource}, networks),
		flows:  flows,
		held:   map[portolan.Flow]*heldSYN{},
	}
}

type heldSYN struct {
	flow   portolan.Flow
	isn    uint32
	packet []byte
	seen   time.Time
	timer  *time.Timer // patience while opening, acceptLimit when given
	cancel context.CancelFunc
	end    datapath.Endpoint // nil while opening
	place  scarce.Place      // among the held
	as     scarce.Place      // among the flows
}

// syn takes a SYN from slow0. packet is copied when it is kept.
func (t *heldTable) syn(ctx context.Context, flow portolan.Flow, isn uint32, packet []byte, now time.Time) {
	ctx, h := t.hold(ctx, flow, isn, packet, now)
	if h == nil {
		return
	}
	opener, ok := t.handler.(datapath.Opener)
	if !ok {
		t.tasks.Go(func() {
			end, err := t.handler.OpenTCP(ctx, flow)
			t.opened(h, end, err)
		})
		return
	}
	t.tasks.Add(1)
	opener.StartTCP(ctx, flow, func(end datapath.Endpoint, err error) {
		defer t.tasks.Done()
		t.opened(h, end, err)
	})
}

// hold enters a SYN into the table, or returns nil when nothing is to be opened.
func (t *heldTable) hold(ctx context.Context, flow portolan.Flow, isn uint32, packet []byte, now time.Time) (context.Context, *heldSYN) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if h := t.held[flow]; h != nil {
		if h.isn == isn {
			t.againLocked(h, now)
			return nil, nil
		}
		t.dropLocked(h)
	}
	place, ok := t.places.Enter(flow.Src.Addr())
	if !ok {
		t.log.Debug("too many held connections", "flow", flow)
		return nil, nil // the machine tries again in a second
	}
	as, ok := t.flows.Enter(flow.Src.Addr())
	if !ok {
		t.places.Leave(place)
		if t.full.Now() {
			t.log.Warn("connections are refused: descriptors are for so many and no more", "flow", flow, "flows", t.flows.Held())
		}
		t.refuse(packet, errFull)
		return nil, nil
	}
	ctx, cancel := context.WithCancel(ctx)
	h := &heldSYN{flow: flow, isn: isn, packet: slices.Clone(packet), seen: now, cancel: cancel, place: place, as: as}
	h.timer = time.AfterFunc(minPatience, func() { t.expire(h) })
	t.held[flow] = h
	return ctx, h
}

// againLocked takes a retransmission.
func (t *heldTable) againLocked(h *heldSYN, now time.Time) {
	if h.end != nil {
		t.write(h.packet)
		return
	}
	h.timer.Reset(max(minPatience, patienceFactor*now.Sub(h.seen)))
	h.seen = now
}

// opened shows the machine what the handler said.
func (t *heldTable) opened(h *heldSYN, end datapath.Endpoint, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	switch {
	case t.held[h.flow] != h:
		if end != nil {
			t.closeEnd(h, end)
		}
	case err != nil:
		t.dropLocked(h)
		t.log.Debug("refuse connection", "flow", h.flow, "error", err)
		t.refuse(h.packet, err)
	default:
		h.end = end
		h.timer.Reset(acceptLimit)
		t.write(h.packet)
	}
}

// accepted serves a connection that a listener got. ctx is the datapath's.
func (t *heldTable) accepted(ctx context.Context, conn *socket.TCP) {
	flow := portolan.Flow{Proto: portolan.TCP, Src: conn.Remote(), Dst: conn.Local()}
	t.mu.Lock()
	defer t.mu.Unlock()
	h := t.held[flow]
	if h == nil || h.end == nil {
		t.log.Debug("reset connection that nobody holds", "flow", flow)
		_ = conn.SetLinger(0)
		_ = conn.Close()
		return
	}
	end, as := h.end, h.as
	h.end, h.as = nil, scarce.Place{}
	t.dropLocked(h)
	t.serve(ctx, end, conn, as)
}

// serve carries an accepted flow to its end.
func (t *heldTable) serve(ctx context.Context, end datapath.Endpoint, conn datapath.Conn, as scarce.Place) {
	if starter, ok := end.(datapath.Starter); ok {
		t.tasks.Add(1)
		starter.Start(ctx, conn, func() {
			t.flows.Leave(as)
			t.tasks.Done()
		})
		return
	}
	t.tasks.Go(func() {
		defer t.flows.Leave(as)
		end.Serve(ctx, conn)
	})
}

// errFull is shown as a reset: what a server without descriptors would send.
var errFull = fmt.Errorf("too many connections: %w", unix.ECONNREFUSED)

// expire gives up a flow that the machine no longer wants.
func (t *heldTable) expire(h *heldSYN) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.held[h.flow] == h {
		t.log.Debug("machine gave connection up", "flow", h.flow)
		t.dropLocked(h)
	}
}

// dropLocked forgets a SYN, ends its dial or closes its endpoint.
func (t *heldTable) dropLocked(h *heldSYN) {
	h.timer.Stop()
	h.cancel()
	delete(t.held, h.flow)
	t.places.Leave(h.place)
	if h.as != (scarce.Place{}) {
		t.flows.Leave(h.as)
	}
	if h.end != nil {
		t.closeEnd(h, h.end)
	}
}

func (t *heldTable) closeEnd(h *heldSYN, end datapath.Endpoint) {
	if err := end.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
		t.log.Debug("close endpoint", "flow", h.flow, "error", err)
	}
}

// close gives everything up and waits. The context of syn and accepted has ended.
func (t *heldTable) close() {
	t.mu.Lock()
	for _, h := range t.held {
		t.dropLocked(h)
	}
	t.mu.Unlock()
	t.tasks.Wait()
}

func addrPort(addr net.Addr) netip.AddrPort {
	return unmap(addr.(*net.TCPAddr).AddrPort())
}
