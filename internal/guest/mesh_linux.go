package guest

import (
	"net/netip"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
)

// meshNetwork is the network namespace in which dockerd balances what comes to
// the ports of swarm's routing mesh (daemon/libnetwork of moby v2.0.0-beta.24).
const meshNetwork = "/run/docker/netns/ingress_sbox"

// InMesh reports whether addr is the routing mesh's: ports that the engine
// publishes for it are a service's, of all its tasks at once.
func InMesh(addr netip.Addr) bool {
	ns, err := netns.GetFromPath(meshNetwork)
	if err != nil {
		return false // no swarm
	}
	defer ns.Close()
	inside, err := netlink.NewHandleAt(ns)
	if err != nil {
		return false
	}
	defer inside.Close()
	addrs, err := inside.AddrList(nil, netlink.FAMILY_ALL)
	if err != nil {
		return false
	}
	for _, a := range addrs {
		if found, ok := netip.AddrFromSlice(a.IP); ok && found.Unmap() == addr {
			return true
		}
	}
	return false
}
