// Package portolan holds the nouns that every other package speaks: flows,
// bindings and the addresses of the machine's link. It imports the standard
// library only, does no I/O, and may be imported by every package.
package portolan

import (
	"fmt"
	"net/netip"
)

// Proto is an IP protocol number (IANA "Assigned Internet Protocol Numbers").
// ICMP stands for ICMP and ICMPv6 alike; the addresses of a flow tell which.
type Proto uint8

// The protocols that Portolan carries.
const (
	ICMP Proto = 1
	TCP  Proto = 6
	UDP  Proto = 17
)

// String returns the lower-case name that the engine and its CLI use.
func (p Proto) String() string {
	switch p {
	case ICMP:
		return "icmp"
	case TCP:
		return "tcp"
	case UDP:
		return "udp"
	}
	return fmt.Sprintf("proto-%d", uint8(p))
}

// MarshalText writes the name, so that JSON says "tcp" and not 6.
func (p Proto) MarshalText() ([]byte, error) { return []byte(p.String()), nil }

// UnmarshalText reads a name as MarshalText writes it.
func (p *Proto) UnmarshalText(text []byte) error {
	for _, known := range []Proto{ICMP, TCP, UDP} {
		if known.String() == string(text) {
			*p = known
			return nil
		}
	}
	return fmt.Errorf("parse protocol %q: want tcp, udp or icmp", text)
}

// Flow is one TCP connection, UDP association or ICMP echo exchange as the
// machine sees it: Src is the container's (or the machine's) own address, Dst
// the address it asked for. Addresses are never IPv4-mapped IPv6. For ICMP both
// ports are the echo identifier.
type Flow struct {
	Proto Proto
	Src   netip.AddrPort
	Dst   netip.AddrPort
}

// String returns "tcp 172.17.0.2:40000 > 198.51.100.1:80".
func (f Flow) String() string { return fmt.Sprintf("%s %s > %s", f.Proto, f.Src, f.Dst) }

// Binding is one published port: what arrives at Host on the host ends at
// Container in the machine. It mirrors one process of the engine's userland
// proxy (moby, cmd/docker-proxy): an unspecified Host address means all
// addresses of that family, never both families.
type Binding struct {
	Proto     Proto          `json:"proto"`
	Host      netip.AddrPort `json:"host"`
	Container netip.AddrPort `json:"container"`
}

// String returns "tcp 0.0.0.0:8000 -> 172.17.0.2:80".
func (b Binding) String() string { return fmt.Sprintf("%s %s -> %s", b.Proto, b.Host, b.Container) }

// Port is one port of an address: what a socket holds that listens there.
type Port struct {
	Proto Proto          `json:"proto"`
	Host  netip.AddrPort `json:"host"`
}

// String names it as the engine does: "0.0.0.0:80/tcp".
func (p Port) String() string { return fmt.Sprintf("%s/%s", p.Host, p.Proto) }
