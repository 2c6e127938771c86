package daemon

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/portolan-net/portolan/internal/profile"
)

func musts(t *testing.T) func(error) {
	return func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
}

// lonelyHost puts the test's thread into a network of its own, with one interface
// that is up and has its link-local address.
func lonelyHost(t *testing.T) *netlink.Veth {
	t.Helper()
	runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
	must := musts(t)
	must(unix.Unshare(unix.CLONE_NEWNET))
	_ = os.WriteFile("/proc/sys/net/ipv6/conf/default/accept_dad", []byte("0"), 0)
	attrs := netlink.NewLinkAttrs()
	attrs.Name = "d0"
	link := &netlink.Veth{LinkAttrs: attrs, PeerName: "d1"}
	must(netlink.LinkAdd(link))
	peer, err := netlink.LinkByName("d1")
	must(err)
	must(netlink.LinkSetUp(peer))
	must(netlink.LinkSetUp(link))
	usable := func(a netlink.Addr) bool { return a.Flags&unix.IFA_F_TENTATIVE == 0 }
	for end := time.Now().Add(5 * time.Second); ; time.Sleep(time.Millisecond) {
		addrs, err := netlink.AddrList(link, netlink.FAMILY_V6)
		if err == nil && slices.ContainsFunc(addrs, usable) {
			return link
		}
		if time.Now().After(end) {
			t.Fatalf("no link-local address: %v, %v", addrs, err)
		}
	}
}

// What is heard of: an interface that goes down, which takes its IPv4 routes along
// in silence, and rules.
func TestFollowHostFamilies(t *testing.T) {
	must := musts(t)
	link := lonelyHost(t)
	must(os.WriteFile("/proc/sys/net/ipv6/conf/all/disable_ipv6", []byte("1"), 0)) // nothing is said of IPv6
	addr, err := netlink.ParseAddr("192.0.2.10/24")
	must(err)
	must(netlink.AddrAdd(link, addr))
	route := &netlink.Route{LinkIndex: link.Index, Gw: net.IPv4(192, 0, 2, 1)}
	must(netlink.RouteAdd(route))

	var h hostFamilies
	var changes atomic.Int64
	here, err := netns.Get()
	must(err)
	defer here.Close()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // never unlocked
		done <- errors.Join(netns.Set(here), h.follow(ctx, profile.Profile{}, func() { changes.Add(1) }, slog.New(slog.DiscardHandler)))
	}()
	defer func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}()
	become := func(what string, want families) {
		t.Helper()
		for end := time.Now().Add(5 * time.Second); changes.Load() == 0 || h.now() != want; time.Sleep(5 * time.Millisecond) {
			if time.Now().After(end) {
				t.Fatalf("%s: %+v, told %d times, want %+v", what, h.now(), changes.Load(), want)
			}
		}
		time.Sleep(10 * followPause) // what comes late of all this is heard of
		changes.Store(0)
	}
	become("at first", families{v4: true})
	if own, other := netip.MustParseAddr("192.0.2.10"), netip.MustParseAddr("192.0.2.1"); !h.has(own) || h.has(other) {
		t.Errorf("it has %s: %v, %s: %v", own, h.has(own), other, h.has(other))
	}
	for life := 1000; life < 1003; life++ { // as routers' advertisements do
		addr.ValidLft, addr.PreferedLft = life, life
		must(netlink.AddrReplace(link, addr))
		time.Sleep(2 * followPause)
	}
	time.Sleep(10 * followPause)
	if n := changes.Load(); n > 1 { // a life that ends is another kind of address
		t.Errorf("an address whose life is renewed changed the network %d times", n)
	}
	changes.Store(0)
	must(netlink.LinkSetDown(link))
	become("interface down", families{})
	must(netlink.LinkSetUp(link))
	must(netlink.RouteAdd(route))
	become("up again", families{v4: true})
	rule := netlink.NewRule()
	rule.Family, rule.Priority, rule.Type = unix.AF_INET, 10, unix.RTN_UNREACHABLE
	must(netlink.RuleAdd(rule))
	become("forbidden by a rule", families{})
	must(netlink.RuleDel(rule))
	become("without the rule", families{v4: true})
}

// A family counts when the kernel would route it to the internet, with a source
// that can be answered.
func TestHostFamilies(t *testing.T) {
	must := musts(t)
	link := lonelyHost(t)
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
