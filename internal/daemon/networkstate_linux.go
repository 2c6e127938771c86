package daemon

import (
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// networkState stands for all that decides how the host sends: two are equal if that
// has not changed. Much of what the kernel tells changes nothing: that Wi-Fi has been
// scanned, or that a router has made its addresses live longer.
type networkState [sha256.Size]byte

// lookAtNetwork asks the kernel.
func lookAtNetwork() (networkState, error) {
	type link struct {
		Index int
		Flags uint32
		State netlink.LinkOperState
	}
	type address struct {
		Link  int
		Addr  string
		Flags int
	}
	var found struct {
		Links     []link
		Addresses []address
		Routes    []netlink.Route
		Rules     []netlink.Rule
	}
	links, errLinks := netlink.LinkList()
	for _, l := range links {
		a := l.Attrs()
		found.Links = append(found.Links, link{a.Index, a.RawFlags, a.OperState})
	}
	addrs, errAddrs := netlink.AddrList(nil, netlink.FAMILY_ALL)
	for _, a := range addrs {
		found.Addresses = append(found.Addresses, address{a.LinkIndex, a.IPNet.String(), a.Flags})
	}
	var errRoutes, errRules error
	found.Routes, errRoutes = netlink.RouteListFiltered(netlink.FAMILY_ALL, &netlink.Route{Table: unix.RT_TABLE_UNSPEC}, netlink.RT_FILTER_TABLE)
	found.Rules, errRules = netlink.RuleList(netlink.FAMILY_ALL)
	text, errText := json.Marshal(found)
	if err := errors.Join(errLinks, errAddrs, errRoutes, errRules, errText); err != nil {
		return networkState{}, fmt.Errorf("look at the host's network: %w", err)
	}
	return sha256.Sum256(text), nil
}
