package server

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"

	"github.com/portolan-net/portolan/internal/proxy"
)

// maxName is the longest domain name (RFC 1035, section 2.3.4) in text.
const maxName = 253

// errName refuses what is no host.
var errName = errors.New("not a host name, nor an address")

// parseTarget reads "host:port"; without a port it is port, where that is not 0.
func parseTarget(text string, port uint16) (proxy.Destination, error) {
	host, digits, err := net.SplitHostPort(text)
	if err != nil && port != 0 {
		host, digits, err = strings.TrimSuffix(strings.TrimPrefix(text, "["), "]"), strconv.Itoa(int(port)), nil
	}
	if err != nil {
		return proxy.Destination{}, fmt.Errorf("destination %q: want HOST:PORT", text)
	}
	number, err := strconv.ParseUint(digits, 10, 16)
	if err != nil || number == 0 {
		return proxy.Destination{}, fmt.Errorf("destination %q: port %q: want a number from 1 to 65535", text, digits)
	}
	if host, err = parseHost(host); err != nil {
		return proxy.Destination{}, fmt.Errorf("destination %q: %w", text, err)
	}
	return proxy.Destination{Host: host, Port: uint16(number)}, nil
}

// parseHost returns a name in lower case, or an address as netip writes it.
// What else inet_aton(3) takes for an address (127.1, 0x7f000001) is refused: a
// proxy might read it as one that the policy did not see.
func parseHost(host string) (string, error) {
	if addr, err := netip.ParseAddr(host); err == nil {
		if addr.Zone() != "" {
			return "", errors.New("an address with a zone means another link here")
		}
		return addr.Unmap().String(), nil
	}
	host = strings.ToLower(host)
	name := strings.TrimSuffix(host, ".")
	if name == "" || len(name) > maxName {
		return "", errName
	}
	for label := range strings.SplitSeq(name, ".") {
		if label == "" || len(label) > 63 || strings.ContainsFunc(label, notInName) {
			return "", errName
		}
	}
	if isNumber(name[strings.LastIndexByte(name, '.')+1:]) {
		return "", errors.New("not an address in its usual form")
	}
	return name, nil
}

// notInName reports what no label of a host name has. Underscores are against
// RFC 1123 and in use.
func notInName(r rune) bool {
	return (r < 'a' || r > 'z') && (r < '0' || r > '9') && r != '-' && r != '_'
}

// isNumber reports a last label that inet_aton(3) would read as a number.
func isNumber(label string) bool {
	if hex, ok := strings.CutPrefix(label, "0x"); ok {
		label = hex
		return !strings.ContainsFunc(label, func(r rune) bool { return (r < '0' || r > '9') && (r < 'a' || r > 'f') })
	}
	return !strings.ContainsFunc(label, func(r rune) bool { return r < '0' || r > '9' })
}

// isAddress reports an address, not a name.
func isAddress(host string) bool {
	_, err := netip.ParseAddr(host)
	return err == nil
}
