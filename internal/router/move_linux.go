package router

import (
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/portolan-net/portolan/internal/portolan"
)

// Move asks the helper behind socketPath to put router and machine on another
// link, and returns when they are there: addresses, routes, neighbours and packet
// filter are those that Setup would have made. What was said with the old
// addresses ends; the host's connection does, too. No daemon may be attached.
// Where both are on that link already, nothing changes.
func Move(socketPath string, link portolan.Link) error {
	h := &helper{path: socketPath}
	defer h.close()
	_, err := h.request(wordMove, link.V4.String(), link.V6.String())
	return err
}

// parseLink reads the two subnets of a request.
func parseLink(words []string) (link portolan.Link, err error) {
	v4, err4 := netip.ParsePrefix(words[0])
	v6, err6 := netip.ParsePrefix(words[1])
	if err := errors.Join(err4, err6); err != nil {
		return link, err
	}
	link = portolan.Link{V4: v4, V6: v6}
	return link, link.Validate()
}

// move is the helper's side of Move.
func (n *Namespace) move(link portolan.Link) error {
	if err := n.release(nil); err != nil {
		return err
	}
	n.host.mu.Lock()
	defer n.host.mu.Unlock()
	if n.link == link {
		return nil
	}
	here, there, err := n.handles()
	if err != nil {
		return err
	}
	defer here.Close()
	defer there.Close()
	for h, name := range map[*netlink.Handle]string{here: linkName, there: machineName} {
		if err := clearEnd(h, name); err != nil {
			return err
		}
	}
	if err := configureLink(here, there, link); err != nil {
		return err
	}
	if err := routeMachine(here, link); err != nil {
		return err
	}
	if err := setupRules(link); err != nil {
		return err
	}
	n.link = link
	return nil
}

// clearEnd takes from an end all that configureEnd gave it, and its routes: the
// kernel takes IPv4's with the addresses. Link-local addresses stay.
func clearEnd(h *netlink.Handle, name string) error {
	dev, err := h.LinkByName(name)
	if err != nil {
		return fmt.Errorf("find %s: %w", name, err)
	}
	addrs, err := h.AddrList(dev, netlink.FAMILY_ALL)
	if err != nil {
		return fmt.Errorf("list addresses of %s: %w", name, err)
	}
	for _, addr := range addrs {
		if addr.IP.IsLinkLocalUnicast() {
			continue
		}
		if err := h.AddrDel(dev, &addr); err != nil && !errors.Is(err, unix.EADDRNOTAVAIL) {
			return fmt.Errorf("remove address %s from %s: %w", addr.IPNet, name, err)
		}
	}
	routes, err := h.RouteList(dev, netlink.FAMILY_V6)
	if err != nil {
		return fmt.Errorf("list routes of %s: %w", name, err)
	}
	for _, route := range routes {
		if route.Protocol == unix.RTPROT_KERNEL {
			continue
		}
		if err := h.RouteDel(&route); err != nil && !errors.Is(err, unix.ESRCH) {
			return fmt.Errorf("remove route %s from %s: %w", route.Dst, name, err)
		}
	}
	return forgetNeighbours(h, dev)
}

// forgetNeighbours removes the entries that were fixed, and those answered for.
func forgetNeighbours(h *netlink.Handle, dev netlink.Link) error {
	index, name := dev.Attrs().Index, dev.Attrs().Name
	fixed, err := h.NeighList(index, netlink.FAMILY_ALL)
	proxied, proxyErr := h.NeighProxyList(index, netlink.FAMILY_ALL)
	if err := errors.Join(err, proxyErr); err != nil {
		return fmt.Errorf("list neighbours on %s: %w", name, err)
	}
	for _, neigh := range append(fixed, proxied...) {
		if neigh.State&netlink.NUD_PERMANENT == 0 && neigh.Flags&netlink.NTF_PROXY == 0 {
			continue
		}
		if err := h.NeighDel(&neigh); err != nil && !errors.Is(err, unix.ENOENT) {
			return fmt.Errorf("forget neighbour %s on %s: %w", neigh.IP, name, err)
		}
	}
	return nil
}

// presentLink is the link that the router stands on, as e0's addresses say.
func presentLink() (link portolan.Link, err error) {
	dev, err := netlink.LinkByName(linkName)
	if err != nil {
		return link, fmt.Errorf("find %s: %w", linkName, err)
	}
	addrs, err := netlink.AddrList(dev, netlink.FAMILY_ALL)
	if err != nil {
		return link, fmt.Errorf("list addresses of %s: %w", linkName, err)
	}
	for _, addr := range addrs {
		if subnet := subnetOf(addr.IPNet); subnet.Addr().Is4() {
			link.V4 = subnet
		} else if !subnet.Addr().IsLinkLocalUnicast() {
			link.V6 = subnet
		}
	}
	return link, link.Validate()
}

func subnetOf(n *net.IPNet) netip.Prefix {
	addr, _ := netip.AddrFromSlice(n.IP)
	ones, _ := n.Mask.Size()
	return netip.PrefixFrom(addr.Unmap(), ones).Masked()
}
