package lab

import "net/netip"

// The addresses of the lab's nodes. Interfaces are named lan0 and wan0.
const (
	HostV4      = "192.0.2.10"
	HostV6      = "2001:db8:1::10"
	HostAliasV4 = "203.0.113.77" // on the host's lo
	HostAliasV6 = "2001:db8:3::77"

	NeighbourV4 = "192.0.2.20"
	NeighbourV6 = "2001:db8:1::20"

	GatewayV4 = "192.0.2.1" // on the LAN
	GatewayV6 = "2001:db8:1::1"
)

// The addresses of the node Internet. StartInternet puts its servers there.
const (
	WebV4   = "198.51.100.1"
	WebV6   = "2001:db8:2::1"
	DNSV4   = "198.51.100.2"
	DNSV6   = "2001:db8:2::2"
	DNS2V4  = "198.51.100.3"
	DNS2V6  = "2001:db8:2::3"
	EmptyV4 = "198.51.100.4" // nothing listens there
	EmptyV6 = "2001:db8:2::4"
)

// The addresses that the gateway refuses.
const (
	NetUnreachableV4  = "198.51.100.96"
	NetUnreachableV6  = "2001:db8:2::96"
	ProhibitedV4      = "198.51.100.97"
	ProhibitedV6      = "2001:db8:2::97"
	HostUnreachableV4 = "198.51.100.98"
	HostUnreachableV6 = "2001:db8:2::98"
	BlackHoleV4       = "198.51.100.99"
	BlackHoleV6       = "2001:db8:2::99"
)

const (
	uplinkV4 = "198.51.100.254"
	uplinkV6 = "2001:db8:2::254"
)

// port is one interface of a node and its place in the switch.
type port struct {
	node, iface, bridge string
	addrs               []string // prefixes
	routes              []string // gateways of default routes
}

// ports lists every link of the lab; the switch's end is named after the node.
func ports() []port {
	return []port{
		{node: "host", iface: "lan0", bridge: "lan", addrs: prefixed(HostV4, HostV6), routes: []string{GatewayV4, GatewayV6}},
		{node: "neighbour", iface: "lan0", bridge: "lan", addrs: prefixed(NeighbourV4, NeighbourV6), routes: []string{GatewayV4, GatewayV6}},
		{node: "gateway", iface: "lan0", bridge: "lan", addrs: prefixed(GatewayV4, GatewayV6)},
		{node: "uplink", iface: "wan0", bridge: "wan", addrs: prefixed(uplinkV4, uplinkV6)},
		{
			node: "internet", iface: "wan0", bridge: "wan",
			addrs:  prefixed(WebV4, WebV6, DNSV4, DNSV6, DNS2V4, DNS2V6, EmptyV4, EmptyV6),
			routes: []string{uplinkV4, uplinkV6},
		},
	}
}

// prefixed writes each address with its subnet's length.
func prefixed(addrs ...string) []string {
	out := make([]string, len(addrs))
	for i, a := range addrs {
		bits := 64
		if netip.MustParseAddr(a).Is4() {
			bits = 24
		}
		out[i] = netip.PrefixFrom(netip.MustParseAddr(a), bits).String()
	}
	return out
}
