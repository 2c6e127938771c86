package router

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"

	"github.com/portolan-net/portolan/internal/datapath"
	"github.com/portolan-net/portolan/internal/portolan"
	"github.com/portolan-net/portolan/internal/socket"
)

// Theory of operation
//
// One loop takes the packets of slow0 and the connections of the listeners, on
// its thread: a SYN is held, its far side dialled, the SYN written back and the
// connection accepted without another thread to be woken. Whatever has to wait,
// such as a dial of another computer, does so elsewhere.
const (
	tagSlow      = 2  // of slow0's events; the others are those of listeners
	packetsTaken = 16 // at a time, then others have their turn
	// acceptPause is how long an accept waits for others to give something back.
	acceptPause = 100 * time.Millisecond
)

// slowReader hears of packets and connections. Its fields are the loop thread's
// own.
type slowReader struct {
	*Datapath
	watched

	ctx     context.Context //nolint:containedctx // of a Run; it ends what its flows begin
	handler datapath.Handler
	held    *heldTable
	packet  []byte
	parts   reassembler
}

// serveSlow takes what the packet filter routes into slow0, and the connections
// that come of it, until ctx ends.
func (d *Datapath) serveSlow(ctx context.Context, handler datapath.Handler, held *heldTable) error {
	r := &slowReader{
		Datapath: d, watched: watched{all: []*descriptor{d.tcp[0], d.tcp[1], d.tun}},
		ctx: ctx, handler: handler, held: held, packet: make([]byte, maxPacket+1),
	}
	return r.serve(ctx, r)
}

// Ready implements poll.Watcher.
func (r *slowReader) Ready(tag int32, _ uint32) {
	if tag == tagSlow {
		r.readPackets()
		return
	}
	r.accept(r.tcp[tag])
}

// accept takes a connection whose handshake the kernel has finished. One at a
// time: asking for one that is not there costs as much.
func (r *slowReader) accept(listener *descriptor) {
	var conn *socket.TCP
	var err error
	closed := listener.Control(func(fd uintptr) { conn, err = socket.Accept(int(fd)) })
	switch err := errors.Join(closed, err); {
	case err == nil:
		r.held.accepted(r.ctx, conn)
	case errors.Is(err, unix.EAGAIN):
	case exhausted(err):
		if r.short.Now() {
			r.log.Warn("connections of containers wait for descriptors", "error", err)
		}
		r.pause(listener, acceptPause) // until a flow ends
	default:
		r.fail(listener, fmt.Errorf("accept connection of the machine: %w", err))
	}
}

func (r *slowReader) readPackets() {
	for range packetsTaken {
		n, err := r.tun.receive(r.packet)
		switch {
		case err == nil:
			r.take(r.packet[:n], time.Now())
		case errors.Is(err, unix.EINTR):
		case errors.Is(err, unix.EAGAIN):
			return
		default:
			r.fail(r.tun, fmt.Errorf("read %s: %w", slowName, err))
			return
		}
	}
}

// take does with a packet what is to be done.
func (r *slowReader) take(b []byte, now time.Time) {
	p, ok := parsePacket(b)
	switch {
	case !ok || !answerable(p.src, p.dst):
	case p.proto == icmpProto(p.src):
		if p, ok = r.parts.add(p, now); ok {
			r.slowICMP(r.handler, p)
		}
	case p.frag.offset > 0: // its first piece got the answer
	case p.proto == protoTCP:
		r.slowTCP(r.ctx, r.held, p, now)
	default:
		r.writeSlow(buildError(r.link.Gateway().For(p.src), p.src, unknownProtocol(p.src.Is6()), p.raw))
	}
}

// slowTCP holds a SYN, or refuses it when its source is nobody's. Everything else
// seemed to be of no connection, and goes to the kernel for a second look.
func (d *Datapath) slowTCP(ctx context.Context, held *heldTable, p packet, now time.Time) {
	header, ok := parseTCP(p.payload)
	if !ok {
		return
	}
	if header.flags&(flagSYN|flagACK) != flagSYN {
		d.writeSlow(p.raw)
		return
	}
	flow := portolan.Flow{
		Proto: portolan.TCP,
		Src:   netip.AddrPortFrom(p.src, header.srcPort),
		Dst:   netip.AddrPortFrom(p.dst, header.dstPort),
	}
	if !d.known(p.src) {
		d.log.Debug("refuse source that the machine does not have", "flow", flow)
		d.writeSlow(buildReset(p, header))
		return
	}
	if d.inside(p.dst) {
		d.refuseTCP(p.raw, errInside)
		return
	}
	held.syn(ctx, flow, header.seq, p.raw, now)
}

// refuseTCP answers a held SYN with what an error stands for.
func (d *Datapath) refuseTCP(syn []byte, reason error) {
	p, ok := parsePacket(syn)
	if !ok {
		return
	}
	refusal := datapath.Classify(reason)
	if refusal == datapath.Refused {
		if header, ok := parseTCP(p.payload); ok {
			d.writeSlow(buildReset(p, header))
		}
		return
	}
	d.writeUnreachable(p.src, p.dst, refusal, syn)
}

// slowICMP passes echo requests on; the other messages concern nobody here.
func (d *Datapath) slowICMP(handler datapath.Handler, p packet) {
	request := byte(echoRequest4)
	if p.src.Is6() {
		request = echoRequest6
	}
	if len(p.payload) < 8 || p.payload[0] != request || p.payload[1] != 0 || !d.known(p.src) {
		return
	}
	id, seq := binary.BigEndian.Uint16(p.payload[4:]), binary.BigEndian.Uint16(p.payload[6:])
	flow := portolan.Flow{Proto: portolan.ICMP, Src: netip.AddrPortFrom(p.src, id), Dst: netip.AddrPortFrom(p.dst, id)}
	if d.inside(p.dst) {
		_ = d.RefuseEcho(flow, seq, p.payload[8:], errInside) // never fails
		return
	}
	handler.HandleEcho(flow, seq, p.payload[8:])
}

// ReplyEcho implements datapath.Machine.
func (d *Datapath) ReplyEcho(flow portolan.Flow, seq uint16, payload []byte) error {
	src, dst := flow.Dst.Addr(), flow.Src.Addr()
	if len(payload) > maxPacket-header4-8 {
		return fmt.Errorf("reply to %s: payload of %d bytes is too long", flow, len(payload))
	}
	msg := buildEcho(src, dst, true, flow.Src.Port(), seq, payload)
	for _, b := range split(src, dst, icmpProto(src), msg, fragmentMTU, d.fragments.Add(1)) {
		if err := d.tun.send(b); err != nil {
			return fmt.Errorf("write %s: %w", slowName, err)
		}
	}
	return nil
}

// RefuseEcho implements datapath.Machine.
func (d *Datapath) RefuseEcho(flow portolan.Flow, seq uint16, payload []byte, reason error) error {
	src, dst := flow.Src.Addr(), flow.Dst.Addr()
	// The quotation holds at most maxError6 bytes, but the checksum is of all.
	msg := buildEcho(src, dst, false, flow.Src.Port(), seq, payload[:min(len(payload), maxPacket-header4-8)])
	d.writeUnreachable(src, dst, datapath.Classify(reason), buildIP(src, dst, icmpProto(src), msg))
	return nil
}

// RefuseUDP implements datapath.Machine.
func (d *Datapath) RefuseUDP(flow portolan.Flow, payload []byte, reason error) error {
	orig := buildUDP(flow.Src, flow.Dst, payload[:min(len(payload), maxPacket-header4-8)])
	d.writeUnreachable(flow.Src.Addr(), flow.Dst.Addr(), datapath.Classify(reason), orig)
	return nil
}

// writeUnreachable tells src about its packet to dst. A port is refused by its
// own host, everything else by a router.
func (d *Datapath) writeUnreachable(src, dst netip.Addr, refusal datapath.Refusal, orig []byte) {
	code, ok := unreachable(refusal, src.Is6())
	if !ok || !answerable(src, dst) {
		return
	}
	from := d.link.Gateway().For(src)
	if refusal == datapath.Refused {
		from = dst
	}
	d.writeSlow(buildError(from, src, code, orig))
}

// writeSlow gives the router's kernel a packet. An error means that the router
// is gone, which the reader finds as well, or that memory is short: the packet
// is lost, as packets are.
func (d *Datapath) writeSlow(b []byte) {
	if err := d.tun.send(b); err != nil && !errors.Is(err, unix.EBADF) {
		d.log.Debug("write packet", "interface", slowName, "error", err)
	}
}
