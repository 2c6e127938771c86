package lab

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"time"

	"github.com/vishvananda/netlink"
)

// nodeSysctls hold for every node before it gets an interface: addresses are
// usable at once and nothing is configured by router advertisements.
func nodeSysctls() []string {
	return []string{
		"net/ipv6/conf/all/disable_ipv6=0", "net/ipv6/conf/default/disable_ipv6=0",
		"net/ipv6/conf/default/accept_dad=0", "net/ipv6/conf/default/accept_ra=0",
	}
}

// gatewaySysctls forward, and lift the kernel's limit of one ICMP error a
// second, which would make tests wait.
func gatewaySysctls() []string {
	return []string{
		"net/ipv4/ip_forward=1", "net/ipv6/conf/all/forwarding=1",
		"net/ipv4/icmp_ratelimit=0", "net/ipv6/icmp/ratelimit=0",
	}
}

// hostSysctls open ping sockets to everybody, as most distributions do.
func hostSysctls() []string { return []string{"net/ipv4/ping_group_range=0 2147483647"} }

// connect builds the network between nodes that have only a loopback.
func (l *Lab) connect(c config) (err error) {
	for _, n := range l.nodes() {
		if err := errors.Join(n.setSysctls(nodeSysctls()...), n.up("lo")); err != nil {
			return err
		}
	}
	if err := errors.Join(
		l.Gateway.setSysctls(gatewaySysctls()...),
		l.Internet.setSysctls("net/ipv4/icmp_ratelimit=0", "net/ipv6/icmp/ratelimit=0"),
		l.Host.setSysctls(hostSysctls()...),
		l.fabric.setSysctls("net/ipv6/conf/default/disable_ipv6=1"),
		l.fabric.addBridge("lan", c.mtu),
		l.fabric.addBridge("wan", c.mtu),
	); err != nil {
		return err
	}
	for _, p := range ports() {
		if err := l.plug(p, c.mtu); err != nil {
			return fmt.Errorf("plug in %s: %w", p.node, err)
		}
	}
	if l.refuser, err = startRefuser(l.Gateway); err != nil {
		return fmt.Errorf("start the gateway's refusals: %w", err)
	}
	return errors.Join(
		l.awaitCarriers(),
		l.Host.AddAddress("lo", netip.MustParsePrefix(HostAliasV4+"/32")),
		l.Host.AddAddress("lo", netip.MustParsePrefix(HostAliasV6+"/128")),
	)
}

// plug makes one link: a veth whose ends are the node's interface and a port of
// a bridge in the switch.
func (l *Lab) plug(p port, mtu int) error {
	node := l.node(p.node)
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MTU, attrs.TxQLen = p.node, mtu, 1000
	veth := &netlink.Veth{LinkAttrs: attrs, PeerName: p.iface, PeerNamespace: netlink.NsFd(node.ns.net.Fd())}
	if err := l.fabric.nl.LinkAdd(veth); err != nil {
		return fmt.Errorf("make veth: %w", err)
	}
	bridge, err := l.fabric.nl.LinkByName(p.bridge)
	if err != nil {
		return fmt.Errorf("find bridge: %w", err)
	}
	if err := l.fabric.nl.LinkSetMaster(veth, bridge); err != nil {
		return fmt.Errorf("join bridge: %w", err)
	}
	if err := errors.Join(l.fabric.up(p.node), node.up(p.iface)); err != nil {
		return err
	}
	for _, a := range p.addrs {
		if err := node.AddAddress(p.iface, netip.MustParsePrefix(a)); err != nil {
			return err
		}
	}
	for _, gw := range p.routes {
		if err := node.nl.RouteAdd(&netlink.Route{Gw: net.ParseIP(gw)}); err != nil {
			return fmt.Errorf("add default route via %s: %w", gw, err)
		}
	}
	l.links[p.node] = &Link{name: p.node, lab: l, node: node, iface: p.iface, make: func() error { return l.plug(p, mtu) }}
	return nil
}

// awaitCarriers waits until all links have told the bridges of their carrier; a
// bridge forwards nothing to a port before.
func (l *Lab) awaitCarriers() error {
	for end := time.Now().Add(kernelPatience); ; time.Sleep(2 * time.Millisecond) {
		waiting := ""
		for _, p := range ports() {
			if !l.fabric.carries(p.node) || !l.node(p.node).carries(p.iface) {
				waiting = p.node
			}
		}
		if waiting == "" {
			return nil
		}
		if time.Now().After(end) {
			return fmt.Errorf("wait for the carrier of %s: %w", waiting, os.ErrDeadlineExceeded)
		}
	}
}

func (n *Node) carries(iface string) bool {
	link, err := n.nl.LinkByName(iface)
	return err == nil && link.Attrs().OperState == netlink.OperUp
}

// node returns the node at the far end of a link.
func (l *Lab) node(link string) *Node {
	return map[string]*Node{
		"host": l.Host, "neighbour": l.Neighbour, "internet": l.Internet,
		"gateway": l.Gateway, "uplink": l.Gateway,
	}[link]
}

func (n *Node) addBridge(name string, mtu int) error {
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MTU = name, mtu
	snooping := false // it would hold neighbour solicitations back at first
	if err := n.nl.LinkAdd(&netlink.Bridge{LinkAttrs: attrs, MulticastSnooping: &snooping}); err != nil {
		return fmt.Errorf("make bridge %s: %w", name, err)
	}
	return n.up(name)
}

func (n *Node) up(iface string) error {
	link, err := n.nl.LinkByName(iface)
	if err != nil {
		return fmt.Errorf("find interface %s of %s: %w", iface, n.Name, err)
	}
	if err := n.nl.LinkSetUp(link); err != nil {
		return fmt.Errorf("set %s of %s up: %w", iface, n.Name, err)
	}
	return nil
}
