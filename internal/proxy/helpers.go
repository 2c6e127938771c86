package proxy

import (
	"context"
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strings"

	"github.com/dop251/goja"
)

// install defines the functions that PAC scripts expect, and the guards. The
// names that end in Ex are Microsoft's, for IPv6.
func (e *engine) install(host Host) error {
	guard, err := e.vm.RunString(guards)
	if err != nil {
		return fmt.Errorf("install guards: %w", err)
	}
	run, _ := goja.AssertFunction(guard)
	if _, err := run(goja.Undefined(), e.vm.ToValue(maxSequence)); err != nil {
		return fmt.Errorf("install guards: %w", err)
	}
	first := func(addrs []netip.Addr) any {
		if len(addrs) == 0 {
			return nil
		}
		return addrs[0].String()
	}
	lookup := func(name string) []netip.Addr { return e.lookup(host, name) }
	mine := func() netip.Addr {
		addr, err := host.Address()
		if err != nil {
			return netip.AddrFrom4([4]byte{127, 0, 0, 1}) // what browsers say then
		}
		return addr
	}
	functions := map[string]any{
		noteLine:              func(line int) { e.line = line },
		"alert":               func(string) {},
		"isPlainHostName":     func(host string) bool { return !strings.ContainsAny(host, ".:") },
		"dnsDomainIs":         func(host, domain string) bool { return hasSuffixFold(host, domain) },
		"localHostOrDomainIs": localHostOrDomainIs,
		"dnsDomainLevels":     func(host string) int { return strings.Count(host, ".") },
		"isResolvable":        func(name string) bool { return len(ipv4(lookup(name))) > 0 },
		"isResolvableEx":      func(name string) bool { return len(lookup(name)) > 0 },
		"dnsResolve":          func(name string) any { return first(ipv4(lookup(name))) },
		"dnsResolveEx":        func(name string) string { return joinAddrs(lookup(name)) },
		"myIpAddress":         func() string { return mine().String() },
		"myIpAddressEx":       func() string { return mine().String() },
		"isInNet":             func(name, net, mask string) bool { return isInNet(ipv4(lookup(name)), net, mask) },
		"isInNetEx":           func(name, prefix string) bool { return isInNetEx(lookup(name), prefix) },
		"sortIpAddressList":   sortIPAddressList,
		"getClientVersion":    func() string { return "1.0" },
		"convert_addr":        convertAddr,
		"shExpMatch":          shExpMatch,
		"weekdayRange":        func(args ...string) bool { return weekdayRange(host.Now(), args) },
		"dateRange":           func(args ...string) bool { return dateRange(host.Now(), args) },
		"timeRange":           func(args ...string) bool { return timeRange(host.Now(), args) },
	}
	for name, function := range functions {
		if err := e.vm.Set(name, function); err != nil {
			return fmt.Errorf("define %s: %w", name, err)
		}
	}
	return nil
}

// lookup finds the addresses of a name or an address; none when there are none.
func (e *engine) lookup(host Host, name string) []netip.Addr {
	name = strings.Trim(strings.TrimSpace(name), "[]")
	if addr, err := netip.ParseAddr(name); err == nil {
		return []netip.Addr{addr.Unmap()}
	}
	if name == "" || len(name) > maxSOCKSField || e.ctx == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(e.ctx, lookupTime)
	defer cancel()
	var found []netip.Addr
	var err error
	e.away(func() { found, err = host.Lookup(ctx, name) })
	if err != nil {
		return nil
	}
	addrs := make([]netip.Addr, len(found))
	for i, addr := range found {
		addrs[i] = addr.Unmap()
	}
	return addrs
}

func ipv4(addrs []netip.Addr) []netip.Addr {
	return slices.DeleteFunc(slices.Clone(addrs), func(a netip.Addr) bool { return !a.Is4() })
}

func joinAddrs(addrs []netip.Addr) string {
	texts := make([]string, len(addrs))
	for i, addr := range addrs {
		texts[i] = addr.String()
	}
	return strings.Join(texts, ";")
}

func hasSuffixFold(host, domain string) bool {
	return strings.HasSuffix(strings.ToLower(host), strings.ToLower(domain))
}

// localHostOrDomainIs: the same name, or its first part alone.
func localHostOrDomainIs(host, full string) bool {
	first, _, _ := strings.Cut(full, ".")
	return strings.EqualFold(host, full) || strings.EqualFold(host, first)
}

// isInNet compares the bits that mask has.
func isInNet(addrs []netip.Addr, net, mask string) bool {
	n, err1 := netip.ParseAddr(net)
	m, err2 := netip.ParseAddr(mask)
	if len(addrs) == 0 || err1 != nil || err2 != nil || !n.Is4() || !m.Is4() {
		return false
	}
	a4, n4, m4 := addrs[0].As4(), n.As4(), m.As4()
	for i := range a4 {
		if a4[i]&m4[i] != n4[i]&m4[i] {
			return false
		}
	}
	return true
}

func isInNetEx(addrs []netip.Addr, prefix string) bool {
	p, err := netip.ParsePrefix(prefix)
	return err == nil && slices.ContainsFunc(addrs, p.Masked().Contains)
}

// sortIPAddressList puts IPv6 first, each family in order; "" for what is no list.
func sortIPAddressList(list string) string {
	var addrs []netip.Addr
	for text := range strings.SplitSeq(list, ";") {
		addr, err := netip.ParseAddr(strings.TrimSpace(text))
		if err != nil {
			return ""
		}
		addrs = append(addrs, addr)
	}
	slices.SortFunc(addrs, func(a, b netip.Addr) int {
		if a.Is4() != b.Is4() {
			return b.BitLen() - a.BitLen()
		}
		return a.Compare(b)
	})
	return joinAddrs(addrs)
}

// convertAddr is the address as one number.
func convertAddr(text string) int64 {
	addr, err := netip.ParseAddr(text)
	if err != nil || !addr.Is4() {
		return 0
	}
	b := addr.As4()
	return int64(b[0])<<24 | int64(b[1])<<16 | int64(b[2])<<8 | int64(b[3])
}

// shExpMatch: * stands for any characters, ? for one, all else for itself.
func shExpMatch(text, pattern string) bool {
	const longest = 4 << 10
	if len(pattern) > longest {
		return false
	}
	quoted := regexp.QuoteMeta(pattern)
	quoted = strings.ReplaceAll(strings.ReplaceAll(quoted, `\*`, `.*`), `\?`, `.`)
	re, err := regexp.Compile(`(?s)^(?:` + quoted + `)$`)
	return err == nil && re.MatchString(text)
}
