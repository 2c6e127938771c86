package relay

import (
	"net"
	"os"
	"runtime"
	"testing"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// Addresses of the test network. Behind the router lie networks that it says
// it can't reach.
const (
	near4, near6       = "198.51.100.1", "2001:db8:1::1" // the test's own
	router4, router6   = "198.51.100.2", "2001:db8:1::2" // one hop away
	nowhere4, nowhere6 = "203.0.113.9", "2001:db8:9::9"  // the router answers: host unreachable
)

// enterNetwork puts the test's goroutine, and no other, into a network namespace
// of its own, with a router one hop away. Sockets that the goroutine opens
// belong to it. The namespace ends with the test.
func enterNetwork(t *testing.T) {
	t.Helper()
	runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
	unshare(t)
	sysctl(t, "ipv4/ip_forward", "1")
	sysctl(t, "ipv6/conf/all/forwarding", "1")
	sysctl(t, "ipv4/icmp_ratelimit", "0")
	sysctl(t, "ipv6/icmp/ratelimit", "0")
	router, err := os.Open("/proc/thread-self/ns/net")
	must(t, err)
	t.Cleanup(func() { must(t, router.Close()) }) // nothing else keeps the router's namespace
	remote, err := netlink.NewHandleAt(netns.NsHandle(router.Fd()))
	must(t, err)
	defer remote.Close()
	unshare(t)
	local, err := netlink.NewHandle()
	must(t, err)
	defer local.Close()

	link := netlink.NewLinkAttrs()
	link.Name = "relaytest0"
	must(t, netlink.LinkAdd(&netlink.Veth{LinkAttrs: link, PeerName: "relaytest1", PeerNamespace: netlink.NsFd(int(router.Fd()))}))
	configure(t, local, "lo")
	configure(t, local, "relaytest0", near4+"/24", near6+"/64")
	configure(t, remote, "lo")
	configure(t, remote, "relaytest1", router4+"/24", router6+"/64")
	awaitUp(t, local, "relaytest0", near6)
	awaitUp(t, remote, "relaytest1", router6)
	for _, route := range [][2]string{{"0.0.0.0/0", router4}, {"::/0", router6}} {
		must(t, local.RouteAdd(&netlink.Route{Dst: network(t, route[0]), Gw: net.ParseIP(route[1])}))
	}
	for _, dead := range []string{"203.0.113.0/24", "2001:db8:9::/64"} {
		must(t, remote.RouteAdd(&netlink.Route{Dst: network(t, dead), Type: unix.RTN_UNREACHABLE}))
	}
}

func unshare(t *testing.T) {
	t.Helper()
	must(t, unix.Unshare(unix.CLONE_NEWNET))
}

func sysctl(t *testing.T, name, value string) {
	t.Helper()
	must(t, os.WriteFile("/proc/sys/net/"+name, []byte(value), 0))
}

func network(t *testing.T, prefix string) *net.IPNet {
	t.Helper()
	_, parsed, err := net.ParseCIDR(prefix)
	must(t, err)
	return parsed
}

// configure brings a link up and gives it addresses, without the pause of IPv6's
// duplicate address detection.
func configure(t *testing.T, h *netlink.Handle, name string, addresses ...string) {
	t.Helper()
	link, err := h.LinkByName(name)
	must(t, err)
	must(t, h.LinkSetUp(link))
	for _, text := range addresses {
		address, err := netlink.ParseAddr(text)
		must(t, err)
		address.Flags = unix.IFA_F_NODAD
		must(t, h.AddrAdd(link, address))
	}
}

// awaitUp waits until the kernel has noticed that the cable is in and delivers
// what is sent to the new IPv6 address; both happen in work queues of its own.
func awaitUp(t *testing.T, h *netlink.Handle, name, addr6 string) {
	t.Helper()
	eventually(t, name+" comes up", func() bool {
		link, err := h.LinkByName(name)
		must(t, err)
		routes, err := h.RouteGet(net.ParseIP(addr6))
		return link.Attrs().OperState == netlink.OperUp && err == nil && routes[0].Type == unix.RTN_LOCAL
	})
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
