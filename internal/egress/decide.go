package egress

import (
	"net/netip"
	"syscall"

	"github.com/portolan-net/portolan/internal/portolan"
)

// verdict says where a flow goes.
type verdict uint8

const (
	direct   verdict = iota // to the destination itself, by an ordinary socket
	host                    // to the host's loopback
	resolver                // to our DNS server
	proxied                 // to our forward proxy
	gateway                 // an address of ours without a service there
	refuse                  // nowhere, and the sender is told
	drop                    // nowhere; RFC 1122, 3.2.2 forbids an ICMP error
)

// portDNS is the one port that the resolver's address serves.
const portDNS = 53

// portProxy is the one port that the gateway's address serves:
// http.docker.internal:3128, as Docker Desktop has it.
const portProxy = 3128

// decide is the whole route decision. The error says why a flow is refused, as
// the host's kernel would have said it.
func decide(link portolan.Link, flow portolan.Flow) (verdict, error) {
	addr := flow.Dst.Addr()
	switch {
	case link.Host().Has(addr):
		return host, nil
	case link.DNS().Has(addr) && flow.Dst.Port() == portDNS && flow.Proto != portolan.ICMP:
		return resolver, nil
	case link.Gateway().Has(addr) && flow.Dst.Port() == portProxy && flow.Proto == portolan.TCP:
		return proxied, nil
	case link.DNS().Has(addr), link.Gateway().Has(addr):
		return gateway, syscall.ECONNREFUSED
	case addr.IsMulticast(), addr == broadcast4, addr == lastOf(link.V4):
		return drop, syscall.ENETUNREACH
	case link.Contains(addr):
		return refuse, syscall.EHOSTUNREACH // the machine itself, or nobody
	case !addr.IsValid(), addr.IsUnspecified(), addr.IsLoopback(), addr.Is4In6(), inNowhere(addr):
		return refuse, syscall.ENETUNREACH
	case addr.Is6() && addr.IsLinkLocalUnicast():
		return refuse, syscall.EHOSTUNREACH // means another link in the machine than on the host
	}
	return direct, nil
}

// broadcast4 is the limited broadcast address.
var broadcast4 = netip.AddrFrom4([4]byte{255, 255, 255, 255})

// inNowhere reports addresses that the host's kernel would take for its own
// loopback, or that nothing routes: 0.0.0.0/8 ("this network"), 240.0.0.0/4
// (reserved) and ::/96 (the IPv4-compatible addresses; RFC 4291, 2.5.5.1).
func inNowhere(addr netip.Addr) bool {
	if addr.Is4() {
		first := addr.As4()[0]
		return first == 0 || first >= 240
	}
	bytes := addr.As16()
	return [12]byte(bytes[:12]) == [12]byte{}
}

// lastOf is the directed broadcast address of an IPv4 network.
func lastOf(network netip.Prefix) netip.Addr {
	bytes := network.Masked().Addr().As4()
	for bit := network.Bits(); bit < 32; bit++ {
		bytes[bit/8] |= 0x80 >> (bit % 8)
	}
	return netip.AddrFrom4(bytes)
}
