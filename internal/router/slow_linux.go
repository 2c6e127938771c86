package router

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"time"

	"github.com/portolan-net/portolan/internal/datapath"
	"github.com/portolan-net/portolan/internal/portolan"
)

// readSlow takes what the packet filter routes into slow0, until ctx ends.
func (d *Datapath) readSlow(ctx context.Context, handler datapath.Handler, held *heldTable) error {
	buf := make([]byte, maxPacket+1)
	var parts reassembler
	for {
		n, err := d.tun.Read(buf)
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read %s: %w", slowName, err)
		}
		now := time.Now()
		p, ok := parsePacket(buf[:n])
		if !ok || !answerable(p.src, p.dst) {
			continue
		}
		if p.proto == icmpProto(p.src) {
			if p, ok = parts.add(p, now); ok {
				d.slowICMP(handler, p)
			}
			continue
		}
		if p.frag.offset > 0 {
			continue // its first piece got the answer
		}
		if p.proto == protoTCP {
			d.slowTCP(ctx, held, p, now)
			continue
		}
		d.writeSlow(buildError(d.link.Gateway().For(p.src), p.src, unknownProtocol(p.src.Is6()), p.raw))
	}
}

// slowTCP holds a SYN, or refuses it when its source is nobody's.
func (d *Datapath) slowTCP(ctx context.Context, held *heldTable, p packet, now time.Time) {
	header, ok := parseTCP(p.payload)
	if !ok || header.flags&(flagSYN|flagACK) != flagSYN {
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
		if _, err := d.tun.Write(b); err != nil {
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
	if _, err := d.tun.Write(b); err != nil && !errors.Is(err, os.ErrClosed) {
		d.log.Debug("write packet", "interface", slowName, "error", err)
	}
}
