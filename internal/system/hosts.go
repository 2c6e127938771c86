package system

import (
	"net/netip"
	"slices"
	"strings"
)

// Hosts is a parsed hosts(5) file. The zero value knows no name.
type Hosts struct {
	addrs map[string][]hostsEntry
	names map[netip.Addr][]string
}

// hostsEntry is an address of a name, and the first line that says so.
type hostsEntry struct {
	addr netip.Addr
	line int32
}

// ParseHosts reads the text of a hosts file: ADDRESS NAME [ALIAS...] # comment.
// Lines without a valid address are passed over, and so are addresses with a
// zone, which mean nothing on another link.
func ParseHosts(text []byte) Hosts {
	h := Hosts{addrs: make(map[string][]hostsEntry), names: make(map[netip.Addr][]string)}
	number := int32(0)
	for line := range strings.Lines(string(text)) {
		number++
		line, _, _ = strings.Cut(line, "#")
		fields := strings.Fields(line)
		if len(fields) < 2 {
			continue
		}
		addr, err := netip.ParseAddr(fields[0])
		if err != nil || addr.Zone() != "" {
			continue
		}
		h.add(hostsEntry{addr.Unmap(), number}, fields[1:])
	}
	return h
}

func (h Hosts) add(entry hostsEntry, names []string) {
	addr := entry.addr
	for i, name := range names {
		name = normalName(name)
		if name == "" {
			continue
		}
		if !slices.ContainsFunc(h.addrs[name], func(e hostsEntry) bool { return e.addr == addr }) {
			h.addrs[name] = append(h.addrs[name], entry)
		}
		// 0.0.0.0 and :: stand for "blocked": nobody asks for their names, and
		// block lists have a hundred thousand of them.
		if i == 0 && !addr.IsUnspecified() && !slices.Contains(h.names[addr], name) {
			h.names[addr] = append(h.names[addr], name)
		}
	}
}

// Addrs returns the addresses of a name in the file's order, nil when the file
// does not have it. Case and a final dot do not matter.
func (h Hosts) Addrs(name string) (addrs []netip.Addr) {
	for _, e := range h.addrs[normalName(name)] {
		addrs = append(addrs, e.addr)
	}
	return addrs
}

// Lines are the lines of the file that give a name its addresses, from 1 on.
func (h Hosts) Lines(name string) (lines []int) {
	for _, e := range h.addrs[normalName(name)] {
		if line := int(e.line); !slices.Contains(lines, line) {
			lines = append(lines, line)
		}
	}
	return lines
}

// Names returns the first name of each line for addr, without repetitions. The
// caller must not change the slice.
func (h Hosts) Names(addr netip.Addr) []string { return h.names[addr.Unmap()] }
