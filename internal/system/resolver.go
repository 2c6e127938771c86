package system

import (
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// dnsPort is where a resolver listens unless the file says otherwise.
const dnsPort = 53

// The default and the limit of glibc (resolv.conf(5), <resolv.h>: RES_MAXNDOTS).
const (
	defaultNDots = 1
	maxNDots     = 15
)

// Resolver is a parsed resolv.conf(5), with the options that count here: docs/dns.md
// says why others do not. Unlike glibc it keeps more than three servers, and no server
// means none, not one on the local host.
type Resolver struct {
	Servers []netip.AddrPort // in the file's order, without repetitions; zones kept
	Search  []string         // lower case, no trailing dot; "." is kept
	NDots   int
	Rotate  bool
	UseVC   bool // ask over TCP always
	NoAAAA  bool // what resolvers say has no AAAA; the hosts file may

	lines map[netip.AddrPort]int
}

// Line is the line of the file, from 1 on, that names a server; 0 for none.
func (r Resolver) Line(server netip.AddrPort) int { return r.lines[server] }

// ParseResolver reads the text of a resolv.conf. As in glibc a line that makes no
// sense is passed over, and the last search or domain line counts. Beyond glibc a
// server may name its port: [127.0.0.1]:5353, [::1]:5353 or 127.0.0.1:5353.
func ParseResolver(text []byte) Resolver {
	r, number := Resolver{lines: map[netip.AddrPort]int{}, NDots: defaultNDots}, 0
	for line := range strings.Lines(string(text)) {
		number++
		// glibc takes a comment sign in the first column only.
		if strings.HasPrefix(line, "#") || strings.HasPrefix(line, ";") {
			continue
		}
		fields := strings.Fields(line)
		if len(fields) < 2 {
			continue
		}
		switch fields[0] {
		case "nameserver":
			r.addServer(fields[1], number)
		case "search":
			r.Search = searchList(fields[1:])
		case "domain":
			r.Search = searchList(fields[1:2])
		case "options":
			for _, option := range fields[1:] {
				r.setOption(option)
			}
		}
	}
	return r
}

func (r *Resolver) addServer(text string, line int) {
	if server, ok := parseServer(text); ok && !slices.Contains(r.Servers, server) {
		r.Servers = append(r.Servers, server)
		r.lines[server] = line
	}
}

// parseServer reads ADDR, ADDR%ZONE, [ADDR]:PORT or V4ADDR:PORT.
func parseServer(text string) (netip.AddrPort, bool) {
	host, port := text, uint64(dnsPort)
	if inner, after, ok := strings.Cut(strings.TrimPrefix(text, "["), "]"); ok && text[0] == '[' {
		host = inner
		number, isPort := strings.CutPrefix(after, ":")
		switch {
		case isPort:
			parsed, err := strconv.ParseUint(number, 10, 16)
			if err != nil || parsed == 0 {
				return netip.AddrPort{}, false
			}
			port = parsed
		case after != "":
			return netip.AddrPort{}, false
		}
	} else if plain, err := netip.ParseAddrPort(text); err == nil && plain.Port() != 0 {
		host, port = plain.Addr().String(), uint64(plain.Port())
	}
	addr, err := netip.ParseAddr(host)
	if err != nil || addr.IsMulticast() {
		return netip.AddrPort{}, false
	}
	return netip.AddrPortFrom(localIfUnspecified(addr.Unmap()), uint16(port)), true
}

// localIfUnspecified: to connect to 0.0.0.0 or :: is to connect to loopback, and
// 0.0.0.0 in the file means just that (resolv.conf(5) of the BSDs).
func localIfUnspecified(addr netip.Addr) netip.Addr {
	switch {
	case !addr.IsUnspecified():
		return addr
	case addr.Is4():
		return netip.AddrFrom4([4]byte{127, 0, 0, 1})
	}
	return netip.IPv6Loopback()
}

func searchList(fields []string) []string {
	list := make([]string, 0, len(fields))
	for _, field := range fields {
		if name := normalName(field); name != "" {
			list = append(list, name)
		} else {
			list = append(list, ".")
		}
	}
	return list
}

func (r *Resolver) setOption(option string) {
	name, value, _ := strings.Cut(option, ":")
	switch name {
	case "ndots":
		if n, err := strconv.Atoi(value); err == nil {
			r.NDots = min(max(n, 0), maxNDots)
		}
	case "rotate":
		r.Rotate = true
	case "use-vc", "usevc", "tcp":
		r.UseVC = true
	case "no-aaaa":
		r.NoAAAA = true
	}
}

// normalName is the form in which names are compared: lower case, no final dot.
func normalName(name string) string {
	return strings.ToLower(strings.TrimSuffix(name, "."))
}
