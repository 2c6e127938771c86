package router

import (
	"context"
	"errors"
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"

	"github.com/portolan-net/portolan/internal/datapath"
	"github.com/portolan-net/portolan/internal/mmsg"
	"github.com/portolan-net/portolan/internal/portolan"
)

const (
	// udpBatch is how many datagrams one recvmmsg takes at most.
	udpBatch = 32
	// udpRoom holds the largest datagram.
	udpRoom = 65536
	// udpControl holds one control message with a socket address.
	udpControl = 64
)

// original reads the destination that the sender of datagram i asked for from
// the control message of IP_RECVORIGDSTADDR or IPV6_RECVORIGDSTADDR; the zero
// value without one.
func original(b *mmsg.Batch, i int) netip.AddrPort {
	switch level, typ, data := b.Control(i); {
	case level == unix.SOL_IP && typ == unix.IP_ORIGDSTADDR, level == unix.SOL_IPV6 && typ == unix.IPV6_ORIGDSTADDR:
		return mmsg.ParseSockaddr(data)
	}
	return netip.AddrPort{}
}

// udpReader hears of datagrams. Its fields are the loop thread's own.
type udpReader struct {
	*Datapath
	watched

	handler  datapath.Handler
	sockets  [2]mmsg.Socket // of udp
	batch    *mmsg.Batch
	payloads [][]byte // room for what a batch holds
}

// serveUDP passes datagrams to the handler, until ctx ends.
func (d *Datapath) serveUDP(ctx context.Context, handler datapath.Handler) error {
	r := &udpReader{
		Datapath: d, watched: watched{all: d.udp[:]},
		handler: handler, batch: mmsg.NewBatch(udpBatch, udpRoom, udpControl), payloads: make([][]byte, 0, udpBatch),
	}
	for i := range r.sockets {
		r.sockets[i].Offload = d.offload
	}
	return r.serve(ctx, r)
}

// Ready implements poll.Watcher. One batch, then others have their turn.
func (r *udpReader) Ready(tag int32, _ uint32) {
	var n int
	var err error
	closed := r.udp[tag].Control(func(fd uintptr) { n, err = r.sockets[tag].Receive(fd, r.batch) })
	switch err := errors.Join(closed, err); {
	case err == nil:
		r.payloads = r.deliverUDP(r.handler, r.batch, n, r.payloads)
	case !errors.Is(err, unix.EAGAIN):
		r.fail(r.udp[tag], fmt.Errorf("read UDP listener: %w", err))
	}
}

// deliverUDP passes n datagrams on, those of one flow that follow each other
// together. It returns payloads, the room for them, empty.
func (d *Datapath) deliverUDP(handler datapath.Handler, b *mmsg.Batch, n int, payloads [][]byte) [][]byte {
	flow := portolan.Flow{Proto: portolan.UDP}
	for i := range n {
		src, dst := b.From(i), original(b, i)
		if src != flow.Src || dst != flow.Dst {
			d.handleUDP(handler, flow, payloads)
			flow.Src, flow.Dst, payloads = src, dst, payloads[:0]
		}
		payloads = append(payloads, b.Payload(i))
	}
	d.handleUDP(handler, flow, payloads)
	return payloads[:0]
}

func (d *Datapath) handleUDP(handler datapath.Handler, flow portolan.Flow, payloads [][]byte) {
	if len(payloads) == 0 || !flow.Src.IsValid() || !flow.Dst.IsValid() {
		return
	}
	// Multicast and broadcast are not carried, and have no return path.
	if !answerable(flow.Src.Addr(), flow.Dst.Addr()) || flow.Src.Port() == 0 || d.isBroadcast(flow.Dst.Addr()) {
		return
	}
	if !d.known(flow.Src.Addr()) {
		d.log.Debug("drop source that the machine does not have", "flow", flow)
		return
	}
	if d.inside(flow.Dst.Addr()) {
		_ = d.RefuseUDP(flow, payloads[0], errInside) // never fails
		return
	}
	handler.HandleUDP(flow, payloads...)
}
