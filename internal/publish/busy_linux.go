package publish

import (
	"bufio"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/portolan-net/portolan/internal/portolan"
	"github.com/portolan-net/portolan/internal/system"
)

// Busy returns the ports of r that the host itself uses, so that no listener of
// this table could have them, without those of the table.
func (t *Table) Busy(r system.PortRange) ([]portolan.Port, error) {
	own := t.numbers()
	found, err := inUse(r)
	if err != nil {
		return nil, err
	}
	maps.Copy(own, t.numbers()) // what came meanwhile
	return slices.DeleteFunc(found, func(p portolan.Port) bool {
		return own[number{p.Proto, p.Host.Port()}] || !Taken(p)
	}), nil
}

// number is a port of any address.
type number struct {
	proto portolan.Proto
	port  uint16
}

// numbers are the ports that the table has.
func (t *Table) numbers() map[number]bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	own := make(map[number]bool, len(t.entries))
	for k := range t.entries {
		own[number{k.proto, k.host.Port()}] = true
	}
	return own
}

// Taken tries whether a port can't be had now, as a listener would be made. It
// takes the port for the blink of an eye: it is for ports that are probably taken.
func Taken(p portolan.Port) bool {
	domain, kind := unix.AF_INET6, unix.SOCK_DGRAM
	var addr unix.Sockaddr = &unix.SockaddrInet6{Port: int(p.Host.Port()), Addr: p.Host.Addr().As16()}
	if p.Host.Addr().Is4() {
		domain, addr = unix.AF_INET, &unix.SockaddrInet4{Port: int(p.Host.Port()), Addr: p.Host.Addr().As4()}
	}
	if p.Proto == portolan.TCP {
		kind = unix.SOCK_STREAM
	}
	fd, err := unix.Socket(domain, kind|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return false
	}
	defer func() { _ = unix.Close(fd) }()
	if domain == unix.AF_INET6 {
		_ = unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, 1)
	}
	if p.Proto == portolan.TCP {
		_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1)
	}
	return errors.Is(unix.Bind(fd, addr), unix.EADDRINUSE)
}

// inUse lists the sockets of this network namespace that have a port of r. An
// IPv6 wildcard comes with that of IPv4, which the same socket may have: the
// kernel does not tell.
func inUse(r system.PortRange) ([]portolan.Port, error) {
	found := map[portolan.Port]bool{}
	for _, proto := range []portolan.Proto{portolan.TCP, portolan.UDP} {
		for _, table := range []string{proto.String(), proto.String() + "6"} {
			if err := readTable(table, r, func(host netip.AddrPort) {
				found[portolan.Port{Proto: proto, Host: host}] = true
				if host.Addr() == netip.IPv6Unspecified() {
					found[portolan.Port{Proto: proto, Host: netip.AddrPortFrom(netip.IPv4Unspecified(), host.Port())}] = true
				}
			}); err != nil {
				return nil, err
			}
		}
	}
	return slices.SortedFunc(maps.Keys(found), func(a, b portolan.Port) int { return strings.Compare(a.String(), b.String()) }), nil
}

// readTable calls use for each socket in one of the kernel's tables that has a
// port of r. Link-local addresses are left out: they need their interface.
func readTable(table string, r system.PortRange, use func(netip.AddrPort)) error {
	file, err := os.Open(filepath.Join("/proc/self/net", table))
	if errors.Is(err, os.ErrNotExist) {
		return nil // no IPv6
	}
	if err != nil {
		return fmt.Errorf("read sockets: %w", err)
	}
	defer func() { _ = file.Close() }()
	first, last := fmt.Sprintf("%04X", r.First), fmt.Sprintf("%04X", r.Last)
	lines := bufio.NewScanner(file)
	lines.Scan() // the heading
	for lines.Scan() {
		// Most of a busy host's sockets are of no interest, and this comes often.
		_, rest, _ := strings.Cut(lines.Text(), ": ")
		local, _, _ := strings.Cut(rest, " ")
		_, port, _ := strings.Cut(local, ":")
		if port < first || port > last {
			continue
		}
		if s, ok := parseSocket(lines.Text()); ok && !s.local.Addr().IsLinkLocalUnicast() {
			use(netip.AddrPortFrom(s.local.Addr().Unmap(), s.local.Port()))
		}
	}
	if err := lines.Err(); err != nil {
		return fmt.Errorf("read sockets: %w", err)
	}
	return nil
}
