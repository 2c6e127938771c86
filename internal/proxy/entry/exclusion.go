package entry

import (
	"fmt"
	"net/netip"
	"path"
	"strconv"
	"strings"
)

// Exclusion is one destination, or a group of them, that is reached without a
// proxy.
type Exclusion struct {
	text   string // as written
	port   uint16 // 0 for all
	all    bool   // *
	prefix netip.Prefix
	host   string // in lower case, without a dot at its end
	suffix bool   // host and all below it
	glob   bool   // host is a pattern of path.Match
}

// String is the entry as it was written.
func (e Exclusion) String() string { return e.text }

// ParseExclusions reads a list; each of its texts may itself hold several
// entries between commas, semicolons or spaces, as NO_PROXY does.
//
//   - everything
//     host           that name
//     .suffix        what is below suffix, and suffix itself
//     *.suffix       the same
//     a*b.suffix     a pattern; * stands for any characters
//     10.0.0.1       an address
//     10.0.0.0/8     a network
//     <local>        names without a dot
//
// Each but the last may end in :port; an IPv6 address has brackets then.
func ParseExclusions(texts []string) ([]Exclusion, error) {
	var list []Exclusion
	for _, text := range texts {
		for _, field := range strings.FieldsFunc(text, func(r rune) bool { return strings.ContainsRune(",; \t\r\n", r) }) {
			e, err := parseExclusion(field)
			if err != nil {
				return nil, fmt.Errorf("%q: %w", field, err)
			}
			list = append(list, e)
		}
	}
	return list, nil
}

func parseExclusion(text string) (Exclusion, error) {
	e := Exclusion{text: text}
	host, err := e.cutPort(text)
	if err != nil {
		return e, err
	}
	if strings.Contains(host, "/") {
		if e.prefix, err = netip.ParsePrefix(host); err != nil {
			return e, fmt.Errorf("no network, want such as 10.0.0.0/8")
		}
		e.prefix = e.prefix.Masked()
		return e, nil
	}
	if addr, err := netip.ParseAddr(strings.Trim(host, "[]")); err == nil {
		addr = addr.Unmap().WithZone("")
		e.prefix = netip.PrefixFrom(addr, addr.BitLen())
		return e, nil
	}
	return e, e.name(strings.TrimSuffix(strings.ToLower(host), "."))
}

// name reads an entry that is about names.
func (e *Exclusion) name(host string) error {
	switch {
	case host == "*":
		e.all = true
	case strings.HasPrefix(host, "."):
		e.suffix, e.host = true, host[1:]
	case strings.HasPrefix(host, "*."):
		e.suffix, e.host = true, host[2:]
	default:
		e.host = host
	}
	e.glob = strings.Contains(e.host, "*")
	if !e.all && e.host == "" || strings.ContainsAny(e.host, "[]?\\@:") {
		return fmt.Errorf("want a host, .suffix, *.suffix, address or network, each with :port if only that is meant")
	}
	return nil
}

// cutPort takes :port from the end.
func (e *Exclusion) cutPort(text string) (string, error) {
	colon := strings.LastIndexByte(text, ':')
	bracket := strings.LastIndexByte(text, ']')
	if colon < 0 || bracket > colon || bracket < 0 && strings.Count(text, ":") > 1 {
		return text, nil
	}
	port, err := strconv.ParseUint(text[colon+1:], 10, 16)
	if err != nil || port == 0 {
		return text, fmt.Errorf("port %q, want 1 to 65535", text[colon+1:])
	}
	e.port = uint16(port)
	return text[:colon], nil
}

// local is the entry for names without a dot.
const local = "<local>"

// Match reports whether a destination is meant: host is a name or an address
// without brackets. A plain name means itself only.
func (e Exclusion) Match(host string, port uint16) bool {
	if e.port != 0 && e.port != port {
		return false
	}
	if e.all {
		return true
	}
	if addr, err := netip.ParseAddr(host); err == nil {
		addr = addr.Unmap().WithZone("")
		return e.prefix.IsValid() && e.prefix.Contains(addr) || e.glob && match(e.host, addr.String())
	}
	host = strings.TrimSuffix(strings.ToLower(host), ".")
	switch {
	case e.prefix.IsValid():
		return false
	case e.host == local:
		return host != "" && !strings.Contains(host, ".")
	case e.glob && e.suffix:
		return match("*."+e.host, host) || match(e.host, host)
	case e.glob:
		return match(e.host, host)
	case host == e.host:
		return true
	}
	return e.suffix && strings.HasSuffix(host, "."+e.host)
}

func match(pattern, host string) bool {
	ok, err := path.Match(pattern, strings.ReplaceAll(host, "/", ""))
	return ok && err == nil
}
