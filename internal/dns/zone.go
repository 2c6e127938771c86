package dns

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"sync/atomic"

	miekg "github.com/miekg/dns"
)

// ZoneName is the domain under which the host knows containers.
const ZoneName = "portolan.internal"

// Zone tells the host, and nobody else, the addresses of containers: it serves
// NAME.portolan.internal on a loopback address, over UDP and TCP. It is no
// resolver: for names outside its domain it answers REFUSED, and never asks
// anybody. docs/dns.md says how the host's resolver is told of it.
//
//	NAME.portolan.internal, A and AAAA   the container's addresses; without one of
//	                                     that family no data
//	NAME.portolan.internal, other types  no data
//	portolan.internal                    SOA
//	other names in the domain            NXDOMAIN
//	other names, other classes           REFUSED
type Zone struct {
	names atomic.Pointer[map[string][]netip.Addr]
}

// Set replaces all names, which are given without the domain and in any case.
func (z *Zone) Set(names map[string][]netip.Addr) {
	lower := make(map[string][]netip.Addr, len(names))
	for name, addrs := range names {
		name = strings.ToLower(name)
		lower[name] = append(lower[name], addrs...)
	}
	z.names.Store(&lower)
}

// Addrs returns the addresses of a name, which may be given with the domain or
// without, in any case; nil for a name that is not there.
func (z *Zone) Addrs(name string) []netip.Addr {
	name = strings.ToLower(strings.TrimSuffix(name, "."))
	return (*z.current())[strings.TrimSuffix(name, "."+ZoneName)]
}

// inZone reports names in the zone's domain, in lower case.
func inZone(name string) bool {
	return name == ZoneName || strings.HasSuffix(name, "."+ZoneName)
}

// Serve answers on both sockets until ctx ends; then it closes them, waits for
// what it started and returns nil.
func (z *Zone) Serve(ctx context.Context, udp net.PacketConn, tcp net.Listener) error {
	servers := []*miekg.Server{{PacketConn: udp, Handler: z}, {Listener: tcp, Handler: z}}
	ended := make(chan error, len(servers))
	running := 0
	var err error
	for _, server := range servers {
		started := make(chan struct{})
		server.NotifyStartedFunc = func() { close(started) }
		go func() { ended <- server.ActivateAndServe() }() // ends with Shutdown
		select {
		case <-started:
			running++
		case err = <-ended:
		}
	}
	if err == nil {
		select {
		case <-ctx.Done():
		case err = <-ended:
			running--
		}
	}
	for _, server := range servers {
		_ = server.Shutdown() // fails only where it has ended
	}
	for range running {
		err = errors.Join(err, <-ended)
	}
	if err != nil {
		return fmt.Errorf("serve %s: %w", ZoneName, err)
	}
	return nil
}

// ServeDNS implements miekg.Handler.
func (z *Zone) ServeDNS(w miekg.ResponseWriter, request *miekg.Msg) {
	m := z.answer(request)
	limit := miekg.MaxMsgSize
	if opt := request.IsEdns0(); opt != nil {
		m.SetEdns0(ownUDPSize, opt.Do())
	}
	if w.RemoteAddr().Network() == "udp" {
		limit = miekg.MinMsgSize
		if opt := request.IsEdns0(); opt != nil {
			limit = max(limit, int(opt.UDPSize()))
		}
	}
	m.Truncate(limit)
	_ = w.WriteMsg(m) // the client may have gone
}

func (z *Zone) answer(request *miekg.Msg) *miekg.Msg {
	m := new(miekg.Msg).SetReply(request)
	if len(request.Question) != 1 {
		m.Rcode = miekg.RcodeFormatError
		return m
	}
	asked := request.Question[0]
	name := strings.ToLower(strings.TrimSuffix(asked.Name, "."))
	label, inside := strings.CutSuffix(name, "."+ZoneName)
	if asked.Qclass != miekg.ClassINET || !inside && name != ZoneName {
		m.Rcode = miekg.RcodeRefused
		return m
	}
	m.Authoritative = true
	addrs, known := (*z.current())[label]
	if !inside {
		known = true
		if asked.Qtype == miekg.TypeSOA {
			m.Answer = []miekg.RR{zoneSOA()}
			return m
		}
	}
	if !known {
		m.Rcode = miekg.RcodeNameError
	}
	if inside {
		m.Answer = addressRecords(&query{asked: asked.Name, qtype: asked.Qtype}, addrs)
	}
	if len(m.Answer) == 0 {
		m.Ns = []miekg.RR{zoneSOA()}
	}
	return m
}

func (z *Zone) current() *map[string][]netip.Addr {
	if names := z.names.Load(); names != nil {
		return names
	}
	return &map[string][]netip.Addr{}
}

// zoneSOA lets nothing be kept: a container may start any second.
func zoneSOA() miekg.RR {
	return &miekg.SOA{
		Hdr: miekg.RR_Header{Name: ZoneName + ".", Rrtype: miekg.TypeSOA, Class: miekg.ClassINET},
		Ns:  "localhost.", Mbox: "nobody.invalid.", Serial: 1, Refresh: 3600, Retry: 600, Expire: 86400,
	}
}
