package router

import (
	"errors"
	"fmt"
	"net"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/portolan-net/portolan/internal/portolan"
)

// The interfaces: e0 faces the machine, whose end is eth0; slow0 is the TUN.
const (
	linkName    = "e0"
	machineName = "eth0"
	slowName    = "slow0"
)

// linkMTU is the largest multiple of 16 below 64 KiB: segments as large as the
// kernel can make them. slow0 has the same, so that nothing is too big for it.
const linkMTU = 65520

// slowQueue is how many packets slow0 holds for the daemon. A burst of SYNs
// while the daemon is busy must not cost retransmission time-outs of 1 s.
const slowQueue = 4096

// Config says what the router is to be.
type Config struct {
	// Link is the subnet pair between router and machine.
	Link portolan.Link
}

// Namespace is a router that stands: the network namespace of this process, and
// the descriptors that daemons get.
type Namespace struct {
	tun       int
	listeners []int // in the order of listenerKinds
	machine   netns.NsHandle
	link      portolan.Link // changes while host.mu is held
	host      hostSide
}

// Setup makes the network namespace of this process a router, and the network
// namespace of process machinePID its machine: it gets eth0 with addresses,
// default routes and fixed neighbours. Every thread of this process must be in
// the router's namespace, which must be new. On an error the caller ends the
// process, and the kernel removes what was made.
func Setup(cfg Config, machinePID int) (*Namespace, error) {
	if err := cfg.Link.Validate(); err != nil {
		return nil, err
	}
	if err := setSysctls(namespaceSysctls()); err != nil {
		return nil, err
	}
	if err := linkUp("lo"); err != nil {
		return nil, err
	}
	tun, err := openTUN()
	if err != nil {
		return nil, err
	}
	n := &Namespace{tun: tun, machine: netns.None(), link: cfg.Link}
	if err := n.finish(cfg.Link, machinePID); err != nil {
		return nil, errors.Join(err, n.Close())
	}
	return n, nil
}

// finish makes the link, and adds what needs both interfaces.
func (n *Namespace) finish(link portolan.Link, machinePID int) (err error) {
	if n.machine, err = openMachine(machinePID); err != nil {
		return err
	}
	if err := n.setupVeth(link); err != nil {
		return err
	}
	if err := setSysctls(interfaceSysctls()); err != nil {
		return err
	}
	if err := linkUp(slowName); err != nil {
		return err
	}
	if err := setupRoutes(link); err != nil {
		return err
	}
	if err := setupRules(link); err != nil {
		return err
	}
	for _, kind := range listenerKinds {
		fd, err := openListener(kind)
		if err != nil {
			return err
		}
		n.listeners = append(n.listeners, fd)
	}
	return nil
}

// Close releases the descriptors. The namespace goes with the last process and
// descriptor in it.
func (n *Namespace) Close() error {
	err := unix.Close(n.tun)
	for _, fd := range n.listeners {
		err = errors.Join(err, unix.Close(fd))
	}
	if n.machine.IsOpen() {
		err = errors.Join(err, n.machine.Close())
	}
	return err
}

// The link's hardware addresses, locally administered. They are fixed so that
// both ends can have permanent neighbour entries and believe no ARP or NDP.
func routerMAC() net.HardwareAddr  { return net.HardwareAddr{0x02, 0x50, 0x41, 0, 0, 0x01} }
func machineMAC() net.HardwareAddr { return net.HardwareAddr{0x02, 0x50, 0x41, 0, 0, 0x03} }

func openMachine(pid int) (netns.NsHandle, error) {
	ns, err := netns.GetFromPid(pid)
	if err != nil {
		return ns, fmt.Errorf("open network namespace of process %d: %w", pid, err)
	}
	return ns, nil
}

// setupVeth makes e0 here and eth0 in the machine, and configures both.
func (n *Namespace) setupVeth(link portolan.Link) error {
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MTU, attrs.HardwareAddr, attrs.TxQLen = linkName, linkMTU, routerMAC(), 1000
	veth := &netlink.Veth{
		LinkAttrs: attrs, PeerName: machineName, PeerMTU: linkMTU,
		PeerHardwareAddr: machineMAC(), PeerNamespace: netlink.NsFd(n.machine),
	}
	if err := netlink.LinkAdd(veth); err != nil {
		return fmt.Errorf("add veth %s to the machine: %w", linkName, err)
	}
	here, there, err := n.handles()
	if err != nil {
		return err
	}
	defer here.Close()
	defer there.Close()
	lo, err := there.LinkByName("lo")
	if err != nil {
		return fmt.Errorf("find lo of the machine: %w", err)
	}
	if err := there.LinkSetUp(lo); err != nil {
		return fmt.Errorf("set lo of the machine up: %w", err)
	}
	return configureLink(here, there, link)
}

// handles open the router's and the machine's network, for the caller to close.
func (n *Namespace) handles() (here, there *netlink.Handle, err error) {
	if here, err = netlink.NewHandle(unix.NETLINK_ROUTE); err != nil {
		return nil, nil, fmt.Errorf("open netlink: %w", err)
	}
	if there, err = netlink.NewHandleAt(n.machine, unix.NETLINK_ROUTE); err != nil {
		here.Close()
		return nil, nil, fmt.Errorf("open netlink in the machine: %w", err)
	}
	return here, there, nil
}

// configureLink gives both ends addresses and neighbours, and the machine its
// default routes.
func configureLink(here, there *netlink.Handle, link portolan.Link) error {
	router := []portolan.Pair{link.Gateway(), link.DNS(), link.Host()}
	machine := []portolan.Pair{link.Machine()}
	if err := configureEnd(here, end{linkName, router, machine, machineMAC(), link}); err != nil {
		return err
	}
	if err := proxyOutside(here, link); err != nil {
		return err
	}
	if err := configureEnd(there, end{machineName, machine, append(router, link.Outside()), routerMAC(), link}); err != nil {
		return err
	}
	return setDefaults(there, machineName, link.Gateway())
}

// end is one end of the veth.
type end struct {
	name      string
	addrs     []portolan.Pair // its own
	peers     []portolan.Pair // the other end's
	peerMAC   net.HardwareAddr
	addrMasks portolan.Link
}

// configureEnd gives an end its addresses and permanent neighbours and sets it up.
func configureEnd(h *netlink.Handle, e end) error {
	dev, err := h.LinkByName(e.name)
	if err != nil {
		return fmt.Errorf("find %s: %w", e.name, err)
	}
	for _, pair := range e.addrs {
		if err := addAddrs(h, dev, pair, e.addrMasks); err != nil {
			return err
		}
	}
	if err := h.LinkSetUp(dev); err != nil {
		return fmt.Errorf("set %s up: %w", e.name, err)
	}
	for _, pair := range e.peers {
		for _, ip := range []net.IP{pair.V4.AsSlice(), pair.V6.AsSlice()} {
			neigh := &netlink.Neigh{LinkIndex: dev.Attrs().Index, State: netlink.NUD_PERMANENT, IP: ip, HardwareAddr: e.peerMAC}
			if err := h.NeighSet(neigh); err != nil {
				return fmt.Errorf("fix neighbour %s on %s: %w", ip, e.name, err)
			}
		}
	}
	return nil
}

func addAddrs(h *netlink.Handle, dev netlink.Link, pair portolan.Pair, link portolan.Link) error {
	v4 := &netlink.Addr{IPNet: &net.IPNet{IP: pair.V4.AsSlice(), Mask: net.CIDRMask(link.V4.Bits(), 32)}}
	// nodad: both ends are ours, and an address must work at once.
	v6 := &netlink.Addr{IPNet: &net.IPNet{IP: pair.V6.AsSlice(), Mask: net.CIDRMask(link.V6.Bits(), 128)}, Flags: unix.IFA_F_NODAD}
	for _, addr := range []*netlink.Addr{v4, v6} {
		if err := h.AddrAdd(dev, addr); err != nil {
			return fmt.Errorf("add address %s to %s: %w", addr.IPNet, dev.Attrs().Name, err)
		}
	}
	return nil
}

// setDefaults sets the default routes of both families, through gw.
func setDefaults(h *netlink.Handle, name string, gw portolan.Pair) error {
	dev, err := h.LinkByName(name)
	if err != nil {
		return fmt.Errorf("find %s: %w", name, err)
	}
	for _, ip := range []net.IP{gw.V4.AsSlice(), gw.V6.AsSlice()} {
		if err := h.RouteReplace(&netlink.Route{LinkIndex: dev.Attrs().Index, Gw: ip}); err != nil {
			return fmt.Errorf("set default route via %s: %w", ip, err)
		}
	}
	return nil
}

func linkUp(name string) error {
	dev, err := netlink.LinkByName(name)
	if err != nil {
		return fmt.Errorf("find %s: %w", name, err)
	}
	if err := netlink.LinkSetUp(dev); err != nil {
		return fmt.Errorf("set %s up: %w", name, err)
	}
	return nil
}
