package publish

import (
	"errors"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/portolan-net/portolan/internal/portolan"
	"github.com/portolan-net/portolan/internal/sockdiag"
	"github.com/portolan-net/portolan/internal/system"
)

// Busy returns the ports of r that the host itself uses, so that no listener of
// this table could have them, without those of the table.
func (t *Table) Busy(r system.PortRange) ([]portolan.Port, error) {
	if r.Size() == 0 {
		return nil, nil
	}
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

// inUse lists the sockets of this network namespace that have a port of r, other
// than link-local ones: they need their interface. A socket of both families comes
// twice.
func inUse(r system.PortRange) ([]portolan.Port, error) {
	found := map[portolan.Port]bool{}
	for _, proto := range []portolan.Proto{portolan.TCP, portolan.UDP} {
		q := sockdiag.Query{Proto: uint8(proto), States: sockdiag.Held, First: r.First, Last: r.Last}
		err := sockdiag.Each(q, func(s sockdiag.Socket) {
			if s.Addr.Addr().IsLinkLocalUnicast() || s.Inode == 0 {
				return
			}
			found[portolan.Port{Proto: proto, Host: s.Addr}] = true
			if s.Both {
				found[portolan.Port{Proto: proto, Host: netip.AddrPortFrom(netip.IPv4Unspecified(), s.Addr.Port())}] = true
			}
		})
		if err != nil {
			return nil, err
		}
	}
	return slices.SortedFunc(maps.Keys(found), func(a, b portolan.Port) int { return strings.Compare(a.String(), b.String()) }), nil
}
