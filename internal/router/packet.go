package router

import (
	"encoding/binary"
	"net/netip"
)

// Protocol numbers and header values that the slow path reads and writes
// (RFC 791, 8200, 9293, 792, 4443).
const (
	protoICMP     = 1
	protoTCP      = 6
	protoUDP      = 17
	protoICMPv6   = 58
	protoHopByHop = 0
	protoRouting  = 43
	protoFragment = 44
	protoDestOpts = 60

	header4 = 20 // without options
	header6 = 40

	flagSYN = 0x02
	flagRST = 0x04
	flagACK = 0x10

	echoReply4   = 0
	echoRequest4 = 8
	echoRequest6 = 128
	echoReply6   = 129
)

// hopLimit of packets that the daemon writes, as of any host.
const hopLimit = 64

// fragmentMTU is the MTU of the engine's networks unless users set another.
// Larger IPv6 datagrams and all larger echo replies are fragmented to it at
// once, because IPv6 routers don't fragment, and the first one would be lost to
// packet-too-big.
const fragmentMTU = 1500

// packet is an IP packet taken apart. Its slices share the buffer it was parsed
// from.
type packet struct {
	src, dst netip.Addr
	proto    byte
	payload  []byte // of the upper layer
	raw      []byte // the whole packet
	frag     fragment
}

// fragment is the place of a packet in a larger one.
type fragment struct {
	id     uint32
	offset int // in bytes
	more   bool
}

func (f fragment) whole() bool { return f.offset == 0 && !f.more }

// parsePacket takes an IPv4 or IPv6 packet apart; ok is false for anything that
// is damaged.
func parsePacket(b []byte) (p packet, ok bool) {
	if len(b) < 1 {
		return packet{}, false
	}
	switch b[0] >> 4 {
	case 4:
		return parseIPv4(b)
	case 6:
		return parseIPv6(b)
	}
	return packet{}, false
}

func parseIPv4(b []byte) (packet, bool) {
	if len(b) < header4 {
		return packet{}, false
	}
	size, total := int(b[0]&15)*4, int(binary.BigEndian.Uint16(b[2:]))
	if size < header4 || total < size || total > len(b) {
		return packet{}, false
	}
	place := binary.BigEndian.Uint16(b[6:])
	return packet{
		src: netip.AddrFrom4([4]byte(b[12:16])), dst: netip.AddrFrom4([4]byte(b[16:20])),
		proto: b[9], payload: b[size:total], raw: b[:total],
		frag: fragment{
			id:     uint32(binary.BigEndian.Uint16(b[4:])),
			offset: int(place&0x1fff) * 8,
			more:   place&0x2000 != 0,
		},
	}, true
}

func parseIPv6(b []byte) (packet, bool) {
	if len(b) < header6 {
		return packet{}, false
	}
	total := header6 + int(binary.BigEndian.Uint16(b[4:]))
	if total > len(b) {
		return packet{}, false
	}
	p := packet{
		src: netip.AddrFrom16([16]byte(b[8:24])), dst: netip.AddrFrom16([16]byte(b[24:40])),
		proto: b[6], payload: b[header6:total], raw: b[:total],
	}
	// An IPv4-mapped address on the wire is nobody's (RFC 4291, 2.5.5.2).
	if p.src.Is4In6() || p.dst.Is4In6() {
		return packet{}, false
	}
	return p, p.skipExtensions()
}

// skipExtensions moves past IPv6 extension headers, up to the upper layer.
func (p *packet) skipExtensions() bool {
	for {
		size := 8
		switch p.proto {
		case protoHopByHop, protoRouting, protoDestOpts:
			if len(p.payload) < 8 {
				return false
			}
			size = 8 + int(p.payload[1])*8
		case protoFragment:
		default:
			return true
		}
		if len(p.payload) < size {
			return false
		}
		if p.proto == protoFragment {
			place := binary.BigEndian.Uint16(p.payload[2:])
			p.frag = fragment{
				id:     binary.BigEndian.Uint32(p.payload[4:]),
				offset: int(place &^ 7),
				more:   place&1 != 0,
			}
		}
		p.proto, p.payload = p.payload[0], p.payload[size:]
		if p.frag.offset > 0 {
			return true // what follows is the middle of something
		}
	}
}

// tcpHeader is what the slow path needs of a TCP segment.
type tcpHeader struct {
	srcPort, dstPort uint16
	seq              uint32
	flags            byte
	length           int // of the data after the header
}

func parseTCP(b []byte) (tcpHeader, bool) {
	if len(b) < 20 {
		return tcpHeader{}, false
	}
	size := int(b[12]>>4) * 4
	if size < 20 || size > len(b) {
		return tcpHeader{}, false
	}
	return tcpHeader{
		srcPort: binary.BigEndian.Uint16(b), dstPort: binary.BigEndian.Uint16(b[2:]),
		seq: binary.BigEndian.Uint32(b[4:]), flags: b[13], length: len(b) - size,
	}, true
}

// buildIP puts an IP header before payload. payload must fit into one packet.
func buildIP(src, dst netip.Addr, proto byte, payload []byte) []byte {
	if src.Is4() {
		return buildIPv4(src, dst, proto, payload, 0, fragment{})
	}
	return buildIPv6(src, dst, proto, payload)
}

func buildIPv4(src, dst netip.Addr, proto byte, payload []byte, id uint16, frag fragment) []byte {
	b := make([]byte, header4+len(payload))
	b[0], b[8], b[9] = 4<<4|header4/4, hopLimit, proto
	binary.BigEndian.PutUint16(b[2:], uint16(len(b)))
	binary.BigEndian.PutUint16(b[4:], id)
	place := uint16(frag.offset / 8)
	if frag.more {
		place |= 0x2000
	}
	binary.BigEndian.PutUint16(b[6:], place)
	copy(b[12:], src.AsSlice())
	copy(b[16:], dst.AsSlice())
	binary.BigEndian.PutUint16(b[10:], ^fold(sum(0, b[:header4])))
	copy(b[header4:], payload)
	return b
}

func buildIPv6(src, dst netip.Addr, proto byte, payload []byte) []byte {
	b := make([]byte, header6+len(payload))
	b[0], b[6], b[7] = 6<<4, proto, hopLimit
	binary.BigEndian.PutUint16(b[4:], uint16(len(payload)))
	copy(b[8:], src.AsSlice())
	copy(b[24:], dst.AsSlice())
	copy(b[header6:], payload)
	return b
}

// split cuts an upper-layer payload into packets of at most mtu bytes.
func split(src, dst netip.Addr, proto byte, payload []byte, mtu int, id uint32) [][]byte {
	header := header4
	if src.Is6() {
		header = header6
	}
	if header+len(payload) <= mtu {
		return [][]byte{buildIP(src, dst, proto, payload)}
	}
	if src.Is6() {
		header += 8 // the fragment header
	}
	step := (mtu - header) &^ 7
	var out [][]byte
	for at := 0; at < len(payload); at += step {
		end := min(at+step, len(payload))
		frag := fragment{id: id, offset: at, more: end < len(payload)}
		if src.Is4() {
			out = append(out, buildIPv4(src, dst, proto, payload[at:end], uint16(id), frag))
			continue
		}
		ext := make([]byte, 8, 8+end-at)
		ext[0] = proto
		place := uint16(at)
		if frag.more {
			place |= 1
		}
		binary.BigEndian.PutUint16(ext[2:], place)
		binary.BigEndian.PutUint32(ext[4:], id)
		out = append(out, buildIPv6(src, dst, protoFragment, append(ext, payload[at:end]...)))
	}
	return out
}

// buildReset answers a SYN as a closed port does (RFC 9293, 3.10.7.1).
func buildReset(p packet, syn tcpHeader) []byte {
	b := make([]byte, 20)
	binary.BigEndian.PutUint16(b, syn.dstPort)
	binary.BigEndian.PutUint16(b[2:], syn.srcPort)
	binary.BigEndian.PutUint32(b[8:], syn.seq+1+uint32(syn.length))
	b[12], b[13] = 5<<4, flagRST|flagACK
	putChecksum(b, 16, p.dst, p.src, protoTCP)
	return buildIP(p.dst, p.src, protoTCP, b)
}

// buildUDP rebuilds a datagram as the machine sent it.
func buildUDP(src, dst netip.AddrPort, payload []byte) []byte {
	b := make([]byte, 8+len(payload))
	binary.BigEndian.PutUint16(b, src.Port())
	binary.BigEndian.PutUint16(b[2:], dst.Port())
	binary.BigEndian.PutUint16(b[4:], uint16(len(b)))
	copy(b[8:], payload)
	putChecksum(b, 6, src.Addr(), dst.Addr(), protoUDP)
	if b[6]|b[7] == 0 {
		b[6], b[7] = 0xff, 0xff // 0 means none (RFC 768)
	}
	return buildIP(src.Addr(), dst.Addr(), protoUDP, b)
}

// buildEcho makes the ICMP message of an echo request or reply.
func buildEcho(src, dst netip.Addr, reply bool, id, seq uint16, payload []byte) []byte {
	b := make([]byte, 8+len(payload))
	switch {
	case src.Is4() && reply:
		b[0] = echoReply4
	case src.Is4():
		b[0] = echoRequest4
	case reply:
		b[0] = echoReply6
	default:
		b[0] = echoRequest6
	}
	binary.BigEndian.PutUint16(b[4:], id)
	binary.BigEndian.PutUint16(b[6:], seq)
	copy(b[8:], payload)
	putChecksum(b, 2, src, dst, icmpProto(src))
	return b
}

func icmpProto(addr netip.Addr) byte {
	if addr.Is4() {
		return protoICMP
	}
	return protoICMPv6
}

// putChecksum fills in the Internet checksum (RFC 1071) at offset at of an
// upper-layer message. ICMP for IPv4 has no pseudo-header.
func putChecksum(b []byte, at int, src, dst netip.Addr, proto byte) {
	b[at], b[at+1] = 0, 0
	var s uint32
	if proto != protoICMP {
		s = sum(sum(0, src.AsSlice()), dst.AsSlice())
		s += uint32(proto) + uint32(len(b))
	}
	binary.BigEndian.PutUint16(b[at:], ^fold(sum(s, b)))
}

func sum(s uint32, b []byte) uint32 {
	for ; len(b) >= 2; b = b[2:] {
		s += uint32(binary.BigEndian.Uint16(b))
	}
	if len(b) == 1 {
		s += uint32(b[0]) << 8
	}
	return s
}

func fold(s uint32) uint16 {
	for s > 0xffff {
		s = s>>16 + s&0xffff
	}
	return uint16(s)
}
