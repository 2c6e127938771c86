package daemon

import (
	"log/slog"
	"net"
	"os"
	"runtime"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/portolan-net/portolan/internal/profile"
)

// A family counts when the kernel would route it to the internet, with a source
// that can be answered.
func TestHostFamilies(t *testing.T) {
	runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		t.Fatal(err)
	}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	_ = os.WriteFile("/proc/sys/net/ipv6/conf/default/accept_dad", []byte("0"), 0)
	attrs := netlink.NewLinkAttrs()
	attrs.Name = "d0"
	link := &netlink.Veth{LinkAttrs: attrs, PeerName: "d1"}
	must(netlink.LinkAdd(link))
	peer, err := netlink.LinkByName("d1")
	must(err)
	must(netlink.LinkSetUp(peer))
	must(netlink.LinkSetUp(link))
	var h hostFamilies
	expect := func(what string, want families) {
		t.Helper()
		h.look(profile.Profile{}, slog.New(slog.DiscardHandler))
		if got := h.now(); got != want {
			t.Errorf("%s: %+v, want %+v", what, got, want)
		}
	}
	if got := h.now(); got != (families{true, true}) {
		t.Errorf("before the first look: %+v", got)
	}
	add := func(text string) {
		t.Helper()
		addr, err := netlink.ParseAddr(text)
		must(err)
		addr.Flags = unix.IFA_F_NODAD
		must(netlink.AddrAdd(link, addr))
	}
	all6 := &net.IPNet{IP: net.IPv6zero, Mask: net.CIDRMask(0, 128)}
	expect("no address", families{})
	add("192.0.2.10/24")
	expect("an address without a default route", families{})
	must(netlink.RouteAdd(&netlink.Route{LinkIndex: link.Index, Gw: net.IPv4(192, 0, 2, 1)}))
	expect("IPv4", families{v4: true})
	must(netlink.RouteAdd(&netlink.Route{LinkIndex: link.Index, Dst: all6}))
	expect("an IPv6 route, and only a link-local address", families{v4: true})
	add("2001:db8::10/64")
	expect("both", families{v4: true, v6: true})
	must(netlink.RouteDel(&netlink.Route{LinkIndex: link.Index, Dst: all6}))
	must(netlink.RouteAdd(&netlink.Route{Dst: all6, Type: unix.RTN_UNREACHABLE}))
	expect("IPv6 called unreachable", families{v4: true})
	if len(h.hostRoutes()) == 0 {
		t.Error("no routes were noted")
	}
}
