package dns

import (
	"net/netip"
	"slices"
	"strings"

	miekg "github.com/miekg/dns"

	"github.com/portolan-net/portolan/internal/portolan"
	"github.com/portolan-net/portolan/internal/system"
)

// The names that Portolan gives, which are Docker Desktop's.
const (
	nameHost    = "host.docker.internal"
	nameGateway = "gateway.docker.internal"
	nameProxy   = "http.docker.internal"
	nameMachine = "vm.docker.internal"
)

// ownTTL makes our answers short-lived: the hosts file and the IPv6 path may
// change any second, and asking again is cheap.
const ownTTL = 0

// local answers what needs no resolver of the host.
//
//	name                          A and AAAA               other types
//	our own names                 places on the link       no data
//	localhost, *.localhost        127.0.0.1, ::1           no data (RFC 6761)
//	names in the hosts file       what it says, see below  forwarded
//	portolan.internal             NXDOMAIN: for the host   NXDOMAIN
//	PTR of our places             the name                 no data
//	PTR of loopback addresses     localhost                no data
//	PTR of hosts file addresses   the first name           forwarded
//
// A loopback address in the hosts file means the host itself ("127.0.1.1 laptop",
// "127.0.0.1 app.local"), but a container's loopback is the container: there the
// answer is host.docker.internal's address of the same family. The usual other
// names of localhost (ip6-localhost, localhost.localdomain) are left alone. A
// name that the file has for one family only has no data for the other, as
// systemd-resolved does it.
type local struct {
	link portolan.Link
	ipv6 func() bool
}

// answer reports whether q is ours to answer, and the answer.
func (l local) answer(q *query, hosts system.Hosts) (answer []byte, known bool) {
	if q.class != miekg.ClassINET {
		return nil, false
	}
	if inZone(q.name) { // the host's resolver may know it, from us
		return pack(reply(q, miekg.RcodeNameError), q), true
	}
	records, known := l.records(q, hosts)
	if !known {
		return nil, false
	}
	if q.edns && q.version != 0 {
		m := reply(q, miekg.RcodeSuccess)
		m.Rcode = miekg.RcodeBadVers
		return pack(m, q), true
	}
	m := reply(q, miekg.RcodeSuccess)
	m.Authoritative = true
	m.Answer = records
	return pack(m, q), true
}

func (l local) records(q *query, hosts system.Hosts) (records []miekg.RR, known bool) {
	if place, ok := l.place(q.name); ok {
		return addressRecords(q, l.reachable(place)), true
	}
	if isLocalhost(q.name) {
		return addressRecords(q, []netip.Addr{netip.AddrFrom4([4]byte{127, 0, 0, 1}), netip.IPv6Loopback()}), true
	}
	if addr, ok := reverseAddr(q.name); ok {
		return l.pointers(q, addr, hosts)
	}
	if q.qtype != miekg.TypeA && q.qtype != miekg.TypeAAAA {
		return nil, false
	}
	addrs := hosts.Addrs(q.name)
	if len(addrs) == 0 {
		return nil, false
	}
	return addressRecords(q, l.fromMachine(q.name, addrs)), true
}

// place finds one of our own names.
func (l local) place(name string) (portolan.Pair, bool) {
	switch name {
	case nameHost:
		return l.link.Host(), true
	case nameGateway, nameProxy:
		return l.link.Gateway(), true
	case nameMachine:
		return l.link.Machine(), true
	}
	return portolan.Pair{}, false
}

// owns reports whether a name is ours, whatever the hosts file says.
func (l local) owns(name string) bool {
	if _, ok := l.place(name); ok || isLocalhost(name) || inZone(name) {
		return true
	}
	addr, ok := reverseAddr(name)
	return ok && (addr.IsLoopback() || l.link.Host().Has(addr) || l.link.Gateway().Has(addr) || l.link.Machine().Has(addr))
}

// reachable lists those addresses of a place to which a path works.
func (l local) reachable(place portolan.Pair) []netip.Addr {
	if l.ipv6() {
		return []netip.Addr{place.V4, place.V6}
	}
	return []netip.Addr{place.V4}
}

// fromMachine turns the hosts file's addresses into those that mean the same
// thing inside the machine.
func (l local) fromMachine(name string, addrs []netip.Addr) []netip.Addr {
	if isLoopbackAlias(name) {
		return addrs
	}
	host := l.reachable(l.link.Host())
	var out []netip.Addr
	for _, addr := range addrs {
		if addr.IsLoopback() {
			if addr = l.link.Host().For(addr); !slices.Contains(host, addr) {
				continue
			}
		}
		if !slices.Contains(out, addr) {
			out = append(out, addr)
		}
	}
	return out
}

// pointers answers reverse queries.
func (l local) pointers(q *query, addr netip.Addr, hosts system.Hosts) (records []miekg.RR, known bool) {
	var names []string
	switch {
	case l.link.Host().Has(addr):
		names = []string{nameHost}
	case l.link.Gateway().Has(addr):
		names = []string{nameGateway}
	case l.link.Machine().Has(addr):
		names = []string{nameMachine}
	case addr.IsLoopback():
		names = []string{"localhost"}
	default:
		names = hosts.Names(addr)
		if len(names) == 0 || q.qtype != miekg.TypePTR {
			return nil, false
		}
	}
	if q.qtype != miekg.TypePTR && q.qtype != miekg.TypeANY {
		return nil, true
	}
	for _, name := range names {
		records = append(records, &miekg.PTR{Hdr: header(q, miekg.TypePTR), Ptr: miekg.Fqdn(name)})
	}
	return records, true
}

// addressRecords makes records of those addresses that q asks for.
func addressRecords(q *query, addrs []netip.Addr) []miekg.RR {
	var records []miekg.RR
	for _, addr := range addrs {
		switch {
		case addr.Is4() && (q.qtype == miekg.TypeA || q.qtype == miekg.TypeANY):
			records = append(records, &miekg.A{Hdr: header(q, miekg.TypeA), A: addr.AsSlice()})
		case addr.Is6() && (q.qtype == miekg.TypeAAAA || q.qtype == miekg.TypeANY):
			records = append(records, &miekg.AAAA{Hdr: header(q, miekg.TypeAAAA), AAAA: addr.AsSlice()})
		}
	}
	return records
}

func header(q *query, rrtype uint16) miekg.RR_Header {
	return miekg.RR_Header{Name: q.asked, Rrtype: rrtype, Class: miekg.ClassINET, Ttl: ownTTL}
}

// isLocalhost: RFC 6761 section 6.3.
func isLocalhost(name string) bool {
	return name == "localhost" || strings.HasSuffix(name, ".localhost")
}

// isLoopbackAlias tells the names which Linux distributions give to loopback
// itself rather than to the host.
func isLoopbackAlias(name string) bool {
	switch name {
	case "localhost4", "localhost6", "ip6-localhost", "ip6-loopback", "localhost.localdomain",
		"localhost4.localdomain4", "localhost6.localdomain6":
		return true
	}
	return false
}
