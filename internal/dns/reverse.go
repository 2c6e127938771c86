package dns

import (
	"encoding/hex"
	"net/netip"
	"slices"
	"strings"
)

// reverseAddr reads a whole address out of a name in in-addr.arpa (RFC 1035
// section 3.5) or ip6.arpa (RFC 3596 section 2.5), in lower case.
func reverseAddr(name string) (netip.Addr, bool) {
	if labels, ok := strings.CutSuffix(name, ".in-addr.arpa"); ok {
		parts := strings.Split(labels, ".")
		slices.Reverse(parts)
		addr, err := netip.ParseAddr(strings.Join(parts, "."))
		return addr, err == nil && addr.Is4()
	}
	labels, ok := strings.CutSuffix(name, ".ip6.arpa")
	if !ok || len(labels) != 63 {
		return netip.Addr{}, false
	}
	digits := make([]byte, 0, 32)
	for i := len(labels) - 1; i >= 0; i-- {
		if isDot := i%2 == 1; isDot != (labels[i] == '.') {
			return netip.Addr{}, false
		} else if !isDot {
			digits = append(digits, labels[i])
		}
	}
	var bytes [16]byte
	if _, err := hex.Decode(bytes[:], digits); err != nil {
		return netip.Addr{}, false
	}
	return netip.AddrFrom16(bytes), true
}
