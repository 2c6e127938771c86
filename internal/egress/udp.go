package egress

import (
	"net/netip"
	"sync"
	"time"

	"github.com/portolan-net/portolan/internal/portolan"
)

// HandleUDP sends datagrams as decide says.
func (e *Egress) HandleUDP(flow portolan.Flow, payloads ...[]byte) {
	v, err := e.decide(flow)
	switch v {
	case resolver:
		for _, payload := range payloads {
			e.cfg.DNS.HandleUDP(payload, flow.Src, func(answer []byte) {
				e.sent(flow, e.cfg.Machine.ReplyUDP(flow, answer))
			})
		}
	case direct:
		e.sendUDP(flow, flow.Dst, payloads)
	case host:
		e.sendHost(flow, payloads)
	case drop:
	default:
		e.sent(flow, e.cfg.Machine.RefuseUDP(flow, payloads[0], err))
	}
}

// sendUDP sends payloads to the address that stands for flow.Dst. One refusal
// stands for all of them: they came at once, and so would the refusals.
func (e *Egress) sendUDP(flow portolan.Flow, to netip.AddrPort, payloads [][]byte) {
	if err := e.udp.Send(flow.Src, to, payloads...); err != nil {
		e.sent(flow, e.cfg.Machine.RefuseUDP(flow, payloads[0], err))
	}
}

// sendHost sends to 127.0.0.1, or to ::1 where that is known to serve the port.
func (e *Egress) sendHost(flow portolan.Flow, payloads [][]byte) {
	port := flow.Dst.Port()
	e.aliases.called(flow.Src, flow.Dst.Addr(), e.cfg.Link.Host())
	if e.aliases.isSix(port, time.Now()) {
		if e.udp.Send(flow.Src, netip.AddrPortFrom(loopback6, port), payloads...) == nil {
			return
		}
		e.aliases.forget(port) // a host without IPv6
	}
	e.sendUDP(flow, netip.AddrPortFrom(loopback4, port), payloads)
}

// replyUDP takes datagrams from the far side.
func (e *Egress) replyUDP(source, peer netip.AddrPort, payloads ...[]byte) {
	flow := portolan.Flow{Proto: portolan.UDP, Src: source, Dst: e.alias(source, peer)}
	e.sent(flow, e.cfg.Machine.ReplyUDP(flow, payloads...))
}

// refusedUDP takes an ICMP error from the far side. A refusal by 127.0.0.1 is
// not the last word: see aliases.
func (e *Egress) refusedUDP(source, peer netip.AddrPort, payload []byte, reason error) {
	flow := portolan.Flow{Proto: portolan.UDP, Src: source, Dst: e.alias(source, peer)}
	switch peer.Addr() {
	case loopback4:
		e.aliases.learn(peer.Port(), time.Now())
		if len(payload) < quoted4 && e.udp.Send(source, netip.AddrPortFrom(loopback6, peer.Port()), payload) == nil {
			return
		}
	case loopback6:
		e.aliases.forget(peer.Port())
	}
	e.sent(flow, e.cfg.Machine.RefuseUDP(flow, payload, reason))
}

// alias is the address under which source knows peer: the host's loopback is
// host.docker.internal in the source's family, or what source called it by.
func (e *Egress) alias(source, peer netip.AddrPort) netip.AddrPort {
	if !peer.Addr().IsLoopback() {
		return peer
	}
	if former, ok := e.aliases.formerOf(source); ok {
		return netip.AddrPortFrom(former, peer.Port())
	}
	return netip.AddrPortFrom(e.cfg.Link.Host().For(source.Addr()), peer.Port())
}

// Theory of operation: datagrams to host.docker.internal
//
// Nobody can ask whether a UDP port is served; one sends and sees. So a datagram
// goes to 127.0.0.1. If that refuses, the error quotes the datagram, which is
// sent on to ::1, and for a while the port's datagrams go there first. If ::1
// refuses, the container is told, and the next datagram begins anew.
//
//	port      a datagram goes to    127.0.0.1 refuses       ::1 refuses
//	unknown   127.0.0.1             on to ::1, now six      refused, now unknown
//	six       ::1                                           refused, now unknown
//
// An error quotes 520 bytes at most. A longer first datagram can't be sent on:
// it is refused to the container, and its next one finds ::1.

// quoted4 is what Linux quotes of a datagram in an ICMP error: 576 bytes (RFC
// 1812, 4.3.2.3) less two IP headers, the ICMP and the UDP header.
const quoted4 = 576 - 20 - 8 - 20 - 8

// sixFor is how long ::1 is tried first. A server that moves to 127.0.0.1 is
// noticed before, by ::1's refusal.
const sixFor = time.Minute

// maxAliases bounds what is remembered of each kind.
const maxAliases = 1024

// aliases remembers the ports of the host that only ::1 serves, and the sources
// that call the host by an address of a former link.
type aliases struct {
	mu     sync.Mutex                    // guards what follows
	six    map[uint16]time.Time          // port to the time when it is forgotten
	former map[netip.AddrPort]netip.Addr // source to the address
}

func newAliases() *aliases {
	return &aliases{six: make(map[uint16]time.Time), former: make(map[netip.AddrPort]netip.Addr)}
}

// called notes the address by which source calls the host now.
func (a *aliases) called(source netip.AddrPort, addr netip.Addr, present portolan.Pair) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if present.Has(addr) {
		delete(a.former, source)
		return
	}
	if len(a.former) >= maxAliases {
		clear(a.former) // each is noted again with its next datagram
	}
	a.former[source] = addr
}

func (a *aliases) formerOf(source netip.AddrPort) (netip.Addr, bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	addr, ok := a.former[source]
	return addr, ok
}

func (a *aliases) isSix(port uint16, now time.Time) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	until, known := a.six[port]
	return known && now.Before(until)
}

func (a *aliases) learn(port uint16, now time.Time) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.six) >= maxAliases {
		clear(a.six) // each is learned again by one more refusal
	}
	a.six[port] = now.Add(sixFor)
}

func (a *aliases) forget(port uint16) {
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.six, port)
}
