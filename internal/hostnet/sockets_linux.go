package hostnet

import (
	"net/netip"

	"github.com/portolan-net/portolan/internal/portolan"
	"github.com/portolan-net/portolan/internal/sockdiag"
)

// Socket is one socket that waits for others.
type Socket struct {
	portolan.Listener
	Both  bool   // bound to ::, takes IPv4 as well
	Inode uint32 // as in /proc/PID/fd
}

// Listeners are the ports that the socket holds: one, or one of each family.
func (s Socket) Listeners() []portolan.Listener {
	if !s.Both {
		return []portolan.Listener{s.Listener}
	}
	v4 := s.Listener
	v4.Addr = netip.AddrPortFrom(netip.IPv4Unspecified(), v4.Addr.Port())
	return []portolan.Listener{v4, s.Listener}
}

// Sockets lists the listening TCP sockets and the bound, unconnected UDP sockets
// of this process's network. Those that are bound to one interface are left out.
func Sockets() ([]Socket, error) {
	var found []Socket
	for _, q := range []sockdiag.Query{
		{Proto: uint8(portolan.TCP), States: sockdiag.Listen},
		{Proto: uint8(portolan.UDP), States: sockdiag.Close},
	} {
		err := sockdiag.Each(q, func(s sockdiag.Socket) {
			if addr := s.Addr.Addr(); s.Interface == 0 && !addr.IsMulticast() && !addr.IsLinkLocalUnicast() {
				l := portolan.Listener{Proto: portolan.Proto(q.Proto), Addr: s.Addr}
				found = append(found, Socket{Listener: l, Both: s.Both, Inode: s.Inode})
			}
		})
		if err != nil {
			return nil, err
		}
	}
	return found, nil
}
