// Package e2e shows through the real docker CLI, in the lab, that what
// Portolan promises holds from end to end.
package e2e

import (
	"net/netip"
	"testing"

	"github.com/portolan-net/portolan/internal/lab"
	"github.com/portolan-net/portolan/internal/stage"
)

// family is one of the two IP versions as the lab has them.
type family struct {
	name, host, web, alias string
	index                  int // in lab.Services
}

func families() []family {
	return []family{
		{"IPv4", lab.HostV4, lab.WebV4, lab.HostAliasV4, 0},
		{"IPv6", lab.HostV6, lab.WebV6, lab.HostAliasV6, 1},
	}
}

// hostPort joins an address of either family and a port.
func hostPort(addr string, port uint16) string {
	return netip.AddrPortFrom(netip.MustParseAddr(addr), port).String()
}

// What a container sends leaves through the daemon's own sockets with the
// host's address, from every kind of network.
func TestOutbound(t *testing.T) { stage.CheckOutbound(t, stage.Up(t)) }
