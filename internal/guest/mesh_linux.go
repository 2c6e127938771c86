package guest

import (
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"runtime"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
)

// meshNetwork is the network namespace in which dockerd balances what comes to
// the ports of swarm's routing mesh (daemon/libnetwork of moby v2.0.0-beta.24).
const meshNetwork = "/run/docker/netns/ingress_sbox"

// OpenMesh reports whether addr is the routing mesh's: ports that the engine
// publishes for it are a service's, of all its tasks at once. If so, it lets the
// tasks' answers through there. dockerd leaves that to the kernel: a new namespace
// forwards if the computer's first one does, which is the host's, not the machine's.
func OpenMesh(addr netip.Addr, log *slog.Logger) bool {
	ns, err := netns.GetFromPath(meshNetwork)
	if err != nil {
		return false // no swarm
	}
	defer ns.Close()
	found, err := hasAddr(ns, addr)
	if found {
		err = forwardIn(ns)
	}
	if err != nil {
		log.Warn("routing mesh", "err", err)
	}
	return found
}

func hasAddr(ns netns.NsHandle, addr netip.Addr) (bool, error) {
	inside, err := netlink.NewHandleAt(ns)
	if err != nil {
		return false, fmt.Errorf("look into %s: %w", meshNetwork, err)
	}
	defer inside.Close()
	all, err := inside.AddrList(nil, netlink.FAMILY_ALL)
	if err != nil {
		return false, fmt.Errorf("list addresses of %s: %w", meshNetwork, err)
	}
	for _, a := range all {
		if found, ok := netip.AddrFromSlice(a.IP); ok && found.Unmap() == addr {
			return true, nil
		}
	}
	return false, nil
}

// forwardIn lets a network namespace forward IPv4.
func forwardIn(ns netns.NsHandle) error {
	runtime.LockOSThread()
	own, err := netns.Get()
	if err == nil {
		defer own.Close()
		err = netns.Set(ns)
	}
	if err == nil {
		err = os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("1"), 0)
		if back := netns.Set(own); back != nil {
			return back // and the thread stays locked: nobody else is to run there
		}
	}
	runtime.UnlockOSThread()
	if err != nil {
		return fmt.Errorf("forward in %s: %w", meshNetwork, err)
	}
	return nil
}
