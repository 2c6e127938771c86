package portolan

import "net/netip"

// Mode says which IP versions containers use.
type Mode string

// The modes, by Docker Desktop's names. The zero Mode is DualStack.
const (
	DualStack Mode = "dual-stack"
	IPv4Only  Mode = "ipv4only"
	IPv6Only  Mode = "ipv6only"
)

// IPv4 reports whether IPv4 is carried.
func (m Mode) IPv4() bool { return m != IPv6Only }

// IPv6 reports whether IPv6 is carried.
func (m Mode) IPv6() bool { return m != IPv4Only }

// Carries reports whether the mode has addr's family.
func (m Mode) Carries(addr netip.Addr) bool {
	if addr.Is4() {
		return m.IPv4()
	}
	return m.IPv6()
}
