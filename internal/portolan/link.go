package portolan

import (
	"encoding/binary"
	"fmt"
	"net/netip"
)

// Link is the Ethernet link between router and machine: an IPv4 /24 (or wider)
// and an IPv6 /64, with fixed places in each (Docker Desktop's).
type Link struct {
	V4 netip.Prefix `json:"v4"`
	V6 netip.Prefix `json:"v6"`
}

// DefaultLink is Docker Desktop's IPv4 subnet and its IPv6 ULA.
func DefaultLink() Link {
	return Link{
		V4: netip.MustParsePrefix("192.168.65.0/24"),
		V6: netip.MustParsePrefix("fdc4:f303:9324::/64"),
	}
}

// LargeSegment is how many bytes of a stream the links between containers and the
// router, and to a connected host, take as one packet over IPv4, instead of 64 KiB
// ("BIG TCP": gso_ipv4_max_size of ip-link(8), Linux 6.3). Each packet costs the same
// on its way through bridge, packet filters and router, whatever it carries. None is
// ever on a wire: the streams end in sockets of this computer.
const LargeSegment = 256 << 10

// The places on the link, counted from the start of each subnet.
const (
	placeGateway = 1
	placeMachine = 3
	placeDNS     = 7
	placeOutside = 253
	placeHost    = 254
)

// Pair is the IPv4 and the IPv6 address of one place on the link.
type Pair struct{ V4, V6 netip.Addr }

// Has reports whether addr is one of the two.
func (p Pair) Has(addr netip.Addr) bool { return addr == p.V4 || addr == p.V6 }

// For returns the address of the same family as addr.
func (p Pair) For(addr netip.Addr) netip.Addr {
	if addr.Is4() {
		return p.V4
	}
	return p.V6
}

// Gateway is the router: gateway.docker.internal.
func (l Link) Gateway() Pair { return l.place(placeGateway) }

// Machine is the machine's own eth0: vm.docker.internal.
func (l Link) Machine() Pair { return l.place(placeMachine) }

// DNS is the resolver that the machine uses.
func (l Link) DNS() Pair { return l.place(placeDNS) }

// Host is host.docker.internal.
func (l Link) Host() Pair { return l.place(placeHost) }

// Outside is the host itself, while it is connected to the machine's networks:
// the source that containers see of what it sends them.
func (l Link) Outside() Pair { return l.place(placeOutside) }

// Contains reports whether addr lies on the link.
func (l Link) Contains(addr netip.Addr) bool { return l.V4.Contains(addr) || l.V6.Contains(addr) }

// Successor returns what stands in l where addr stood in one of the links before
// it: the gateway, the resolver or the host. Any other address is returned as it is.
func (l Link) Successor(addr netip.Addr, before []Link) netip.Addr {
	for _, old := range before {
		for _, place := range []func(Link) Pair{Link.Gateway, Link.DNS, Link.Host} {
			if place(old).Has(addr) {
				return place(l).For(addr)
			}
		}
	}
	return addr
}

// Validate says whether the fixed places fit into both subnets.
func (l Link) Validate() error {
	if !l.V4.IsValid() || !l.V4.Addr().Is4() || l.V4.Bits() > 24 || l.V4 != l.V4.Masked() {
		return fmt.Errorf("link subnet %s: want an IPv4 network of /24 or wider", l.V4)
	}
	if !l.V6.IsValid() || !l.V6.Addr().Is6() || l.V6.Bits() > 64 || l.V6 != l.V6.Masked() {
		return fmt.Errorf("link subnet %s: want an IPv6 network of /64 or wider", l.V6)
	}
	return nil
}

// place returns host number n of both subnets. In IPv6 the number is written as
// its decimal digits read as hexadecimal (254 is ::254), as Docker Desktop does.
func (l Link) place(n uint32) Pair {
	v4 := l.V4.Addr().As4()
	binary.BigEndian.PutUint32(v4[:], binary.BigEndian.Uint32(v4[:])+n)
	v6 := l.V6.Addr().As16()
	digits := n/100<<8 | n/10%10<<4 | n%10
	binary.BigEndian.PutUint16(v6[14:], uint16(digits))
	return Pair{V4: netip.AddrFrom4(v4), V6: netip.AddrFrom16(v6)}
}
