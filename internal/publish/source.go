package publish

import (
	"net/netip"
	"slices"

	"github.com/portolan-net/portolan/internal/portolan"
)

// surroundings is what the choice of a source depends on beside the client.
type surroundings struct {
	link     portolan.Link
	host     []netip.Addr   // the host's own addresses
	networks []netip.Prefix // the engine's subnets and addresses of the machine
}

// source is the address with which the container sees client: the client's own,
// or the host's address on the link where a reply to the client's own would not
// come back, or means another computer inside the machine.
func source(client, container netip.Addr, s surroundings) netip.Addr {
	substitute := s.link.Host().For(container)
	client = client.Unmap()
	switch {
	case !client.IsValid(), client.Is4() != container.Is4(),
		client.IsUnspecified(), client.IsMulticast(),
		client.IsLoopback(), client.IsLinkLocalUnicast(), // only mean something on this host
		slices.Contains(s.host, client),
		s.link.Contains(client):
		return substitute
	}
	for _, network := range s.networks {
		if network.Contains(client) {
			return substitute
		}
	}
	return client.WithZone("")
}
