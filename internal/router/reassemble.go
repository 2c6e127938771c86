package router

import (
	"cmp"
	"net/netip"
	"slices"
	"time"
)

// The kernel reassembles what it filters, but cuts a packet that came in
// fragments again on its way into slow0. So large echo requests arrive here in
// pieces, in order and soon after each other.
const (
	maxReassembly   = 64 // packets at a time, at most 4 MiB of memory
	reassemblyLimit = 5 * time.Second
	maxPacket       = 65535
)

type reassemblyKey struct {
	src, dst netip.Addr
	proto    byte
	id       uint32
}

type piece struct {
	offset int
	data   []byte
}

type partial struct {
	pieces []piece
	size   int // of the pieces together
	total  int // of the whole; 0 until the last piece is here
	began  time.Time
}

// reassembler puts fragments together. It is used by one goroutine.
type reassembler struct {
	partials map[reassemblyKey]*partial
}

// add takes a packet and returns it whole once its last fragment came. A packet
// that never was in pieces comes back unchanged.
func (r *reassembler) add(p packet, now time.Time) (packet, bool) {
	if p.frag.whole() {
		return p, true
	}
	key := reassemblyKey{p.src, p.dst, p.proto, p.frag.id}
	if p.src.Is6() {
		key.proto = 0 // later fragments carry it too, but need not agree
	}
	part := r.partials[key]
	if part == nil {
		r.expire(now)
		if len(r.partials) >= maxReassembly {
			return packet{}, false
		}
		part = &partial{began: now}
		if r.partials == nil {
			r.partials = map[reassemblyKey]*partial{}
		}
		r.partials[key] = part
	}
	if !part.take(p) {
		delete(r.partials, key)
		return packet{}, false
	}
	if part.total == 0 || part.size < part.total {
		return packet{}, false
	}
	delete(r.partials, key)
	payload, ok := part.join()
	if !ok {
		return packet{}, false
	}
	p.payload, p.frag = payload, fragment{}
	p.raw = buildIP(p.src, p.dst, p.proto, payload)
	return p, true
}

// take keeps a copy of one piece; false means that the packet is nonsense.
func (part *partial) take(p packet) bool {
	end := p.frag.offset + len(p.payload)
	if len(p.payload) == 0 || end > maxPacket-header4 || part.size+len(p.payload) > maxPacket {
		return false
	}
	if !p.frag.more {
		part.total = end
	}
	part.pieces = append(part.pieces, piece{p.frag.offset, slices.Clone(p.payload)})
	part.size += len(p.payload)
	return true
}

// join refuses overlaps and holes, as RFC 5722 asks.
func (part *partial) join() ([]byte, bool) {
	slices.SortFunc(part.pieces, func(a, b piece) int { return cmp.Compare(a.offset, b.offset) })
	out := make([]byte, 0, part.total)
	for _, piece := range part.pieces {
		if piece.offset != len(out) {
			return nil, false
		}
		out = append(out, piece.data...)
	}
	return out, len(out) == part.total
}

func (r *reassembler) expire(now time.Time) {
	for key, part := range r.partials {
		if now.Sub(part.began) > reassemblyLimit {
			delete(r.partials, key)
		}
	}
}
