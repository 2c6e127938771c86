package system

import (
	"net/netip"
	"slices"
	"strings"
)

// Hosts is a parsed hosts(5) file. The zero value knows no name.
type Hosts struct {
	addrs map[string][]netip.Addr
	names map[netip.Addr][]string
}

// ParseHosts reads the text of a hosts file: ADDRESS NAME [ALIAS...] # comment.
// Lines without a valid address are passed over, and so are addresses with a
// zone, which mean nothing on another link.
func ParseHosts(text []byte) Hosts {
	h := Hosts{addrs: make(map[string][]netip.Addr), names: make(map[netip.Addr][]string)}
	for line := range strings.Lines(string(text)) {
		line, _, _ = strings.Cut(line, "#")
		fields := strings.Fields(line)
		if len(fields) < 2 {
			continue
		}
		addr, err := netip.ParseAddr(fields[0])
		if err != nil || addr.Zone() != "" {
			continue
		}
		h.add(addr.Unmap(), fields[1:])
	}
	return h
}

func (h Hosts) add(addr netip.Addr, names []string) {
	for i, name := range names {
		name = normalName(name)
		if name == "" {
			continue
		}
		if !slices.Contains(h.addrs[name], addr) {
			h.addrs[name] = append(h.addrs[name], addr)
		}
		// 0.0.0.0 and :: stand for "blocked": nobody asks for their names, and
		// block lists have a hundred thousand of them.
		if i == 0 && !addr.IsUnspecified() && !slices.Contains(h.names[addr], name) {
			h.names[addr] = append(h.names[addr], name)
		}
	}
}

// Addrs returns the addresses of a name in the file's order, nil when the file
// does not have it. Case and a final dot do not matter. The caller must not
// change the slice.
func (h Hosts) Addrs(name string) []netip.Addr { return h.addrs[normalName(name)] }

// Names returns the first name of each line for addr, without repetitions. The
// caller must not change the slice.
func (h Hosts) Names(addr netip.Addr) []string { return h.names[addr.Unmap()] }
