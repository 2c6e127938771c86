package router

import (
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/portolan-net/portolan/internal/portolan"
)

// A host that is connected reaches containers by their own addresses: a veth
// leads from it to h0 here, and the kernel forwards between h0 and e0. Who made
// the veth holds a connection to the helper; when that ends, whatever ended it,
// the helper removes h0, and the kernel the other end with its routes.
//
//	host                     router                        machine
//	.253 ------------------- h0            e0 ------------ eth0
//
// While h0 is there, there is one more table (nft(8)):
//
//	table inet portolan-connect {
//	 chain track { type filter hook prerouting priority raw;                    (0)
//	  iifname h0 accept
//	  iifname e0 ip daddr 192.168.65.253 accept
//	  notrack
//	 }
//	 chain own { type filter hook output priority raw; notrack }
//	 chain pre { type filter hook prerouting priority mangle - 1;
//	  iifname h0 ip saddr 192.168.65.253 fib daddr type unicast meta mark set 4 accept   (1)
//	  iifname h0 drop
//	  iifname e0 ip saddr 192.168.65.253 drop                                   (2)
//	  iifname e0 ip daddr 192.168.65.253 icmp type redirect drop
//	  iifname e0 ip daddr 192.168.65.253 ct state established,related meta mark set 4 accept   (3)
//	  iifname e0 ip daddr 192.168.65.253 drop
//	 }
//	}
//
// and the same for IPv6. Mark 4 leads past the rules of rules_linux.go.
//
// (0) Connections are tracked between these two only: everything else would
// pay for it.
// (1) The host speaks for itself. What it forwards for its LAN has another
// source and ends here; nor are the router's own addresses reached this way.
// (2) Nobody else speaks for it.
// (3) Containers answer, and begin nothing.
const connectTable = "portolan-connect"

// hostName is the router's end of the host's veth.
const hostName = "h0"

// The hardware addresses of that veth, fixed as those of the link are.
func hostMAC() net.HardwareAddr { return net.HardwareAddr{0x02, 0x50, 0x41, 0, 0, 0xfd} }
func h0MAC() net.HardwareAddr   { return net.HardwareAddr{0x02, 0x50, 0x41, 0, 0, 0x02} }

// addrGenNone is IN6_ADDR_GEN_MODE_NONE of linux/if_link.h.
const addrGenNone = 1

// priorityConnect is before the main table's rules and after connection tracking.
const priorityConnect = -151

// hostSide is the helper's side of the host's connection.
type hostSide struct {
	mu     sync.Mutex // guards holder, and that one changes h0 at a time
	holder *net.UnixConn
}

// hold makes conn the one whose end disconnects. What an earlier one left, of a
// helper before this one, is cleared.
func (n *Namespace) hold(conn *net.UnixConn) error {
	n.host.mu.Lock()
	defer n.host.mu.Unlock()
	if n.host.holder != nil {
		return errors.New("the host is connected already; end that with: portolan disconnect")
	}
	if err := removeHostEnd(); err != nil {
		return err
	}
	n.host.holder = conn
	return nil
}

// release disconnects if conn, or anybody for a nil conn, holds the connection.
// A holder that did not ask for it is told.
func (n *Namespace) release(conn *net.UnixConn) error {
	n.host.mu.Lock()
	defer n.host.mu.Unlock()
	if n.host.holder == nil || conn != nil && conn != n.host.holder {
		return nil
	}
	holder := n.host.holder
	n.host.holder = nil
	err := removeHostEnd()
	if conn == nil {
		// It may be gone, and will be found to be.
		_ = holder.SetWriteDeadline(time.Now().Add(helperPatience))
		_, _ = fmt.Fprintln(holder, wordEnded)
	}
	return err
}

// admit sets up the router's end of the veth that the holder has made.
func (n *Namespace) admit(conn *net.UnixConn) error {
	n.host.mu.Lock()
	defer n.host.mu.Unlock()
	if n.host.holder != conn {
		return errors.New("admit the host: it is not connected")
	}
	return setupHostEnd(n.link)
}

func setupHostEnd(link portolan.Link) error {
	dev, err := netlink.LinkByName(hostName)
	if err != nil {
		return fmt.Errorf("find %s: %w", hostName, err)
	}
	if err := setupConnectRules(link); err != nil {
		return err
	}
	// Without a link-local address it sends nothing by itself.
	if err := netlink.LinkSetIP6AddrGenMode(dev, addrGenNone); err != nil {
		return fmt.Errorf("prepare %s: %w", hostName, err)
	}
	if err := netlink.LinkSetGSOIPv4MaxSize(dev, portolan.LargeSegment); err != nil {
		return fmt.Errorf("enlarge segments of %s: %w", hostName, err)
	}
	if err := netlink.LinkSetUp(dev); err != nil {
		return fmt.Errorf("set %s up: %w", hostName, err)
	}
	own := link.Outside()
	for _, ip := range []net.IP{own.V4.AsSlice(), own.V6.AsSlice()} {
		index := dev.Attrs().Index
		neigh := &netlink.Neigh{LinkIndex: index, State: netlink.NUD_PERMANENT, IP: ip, HardwareAddr: hostMAC()}
		if err := netlink.NeighSet(neigh); err != nil {
			return fmt.Errorf("fix neighbour %s on %s: %w", ip, hostName, err)
		}
		alone := &net.IPNet{IP: ip, Mask: net.CIDRMask(8*len(ip), 8*len(ip))}
		if err := netlink.RouteReplace(&netlink.Route{LinkIndex: index, Dst: alone, Scope: netlink.SCOPE_LINK}); err != nil {
			return fmt.Errorf("add route to %s: %w", ip, err)
		}
	}
	return nil
}

// removeHostEnd removes both ends of the veth, and the table; none is no error.
func removeHostEnd() error {
	dev, err := netlink.LinkByName(hostName)
	if err == nil {
		err = netlink.LinkDel(dev)
	}
	_, none := errors.AsType[netlink.LinkNotFoundError](err)
	if err != nil && !none && !errors.Is(err, unix.ENODEV) { // the holder removes it, too
		return fmt.Errorf("remove %s: %w", hostName, err)
	}
	c, err := nftables.New()
	if err != nil {
		return fmt.Errorf("open nftables: %w", err)
	}
	table := c.AddTable(&nftables.Table{Name: connectTable, Family: nftables.TableFamilyINet}) // so that there is one
	c.DelTable(table)
	if err := c.Flush(); err != nil {
		return fmt.Errorf("remove packet filter of %s: %w", hostName, err)
	}
	return nil
}

func setupConnectRules(link portolan.Link) error {
	c, err := nftables.New()
	if err != nil {
		return fmt.Errorf("open nftables: %w", err)
	}
	table := c.AddTable(&nftables.Table{Name: connectTable, Family: nftables.TableFamilyINet})
	chain := func(name string, hook *nftables.ChainHook, priority nftables.ChainPriority) func(...[]expr.Any) {
		made := c.AddChain(&nftables.Chain{
			Name: name, Table: table, Type: nftables.ChainTypeFilter, Hooknum: hook, Priority: &priority,
		})
		return func(parts ...[]expr.Any) {
			var exprs []expr.Any
			for _, part := range parts {
				exprs = append(exprs, part...)
			}
			c.AddRule(&nftables.Rule{Table: table, Chain: made, Exprs: exprs})
		}
	}
	track := chain("track", nftables.ChainHookPrerouting, *nftables.ChainPriorityRaw)
	own := chain("own", nftables.ChainHookOutput, *nftables.ChainPriorityRaw)
	pre := chain("pre", nftables.ChainHookPrerouting, priorityConnect)
	both, outside := families(link), link.Outside()

	track(iif(hostName), accept())
	for _, f := range both {
		track(iif(linkName), nfproto(f), f.to(outside), accept())
	}
	track([]expr.Any{&expr.Notrack{}})
	own([]expr.Any{&expr.Notrack{}})
	for _, f := range both {
		pre(iif(hostName), nfproto(f), f.from(outside), daddrType(unix.RTN_UNICAST), mark(markForward), accept())
	}
	pre(iif(hostName), drop())
	const redirect = 5 // RFC 792
	for _, f := range both {
		pre(iif(linkName), nfproto(f), f.from(outside), drop())
		if f.icmp == protoICMP {
			pre(iif(linkName), nfproto(f), f.to(outside), l4proto(expr.CmpOpEq, f.icmp), icmpType(redirect), drop())
		}
		pre(iif(linkName), nfproto(f), f.to(outside), established(), mark(markForward), accept())
		pre(iif(linkName), nfproto(f), f.to(outside), drop())
	}
	if err := c.Flush(); err != nil {
		return fmt.Errorf("install packet filter of %s: %w", hostName, err)
	}
	return nil
}

// from and to match the packet's source and destination.
func (f family) from(pair portolan.Pair) []expr.Any {
	return []expr.Any{f.saddr, is(expr.CmpOpEq, pair.For(f.machine).AsSlice()...)}
}

func (f family) to(pair portolan.Pair) []expr.Any {
	daddr := *f.saddr
	daddr.Offset += daddr.Len // it follows the source in both headers
	return []expr.Any{&daddr, is(expr.CmpOpEq, pair.For(f.machine).AsSlice()...)}
}

func daddrType(typ uint32) []expr.Any {
	return []expr.Any{
		&expr.Fib{Register: 1, FlagDADDR: true, ResultADDRTYPE: true},
		is(expr.CmpOpEq, binaryutil.NativeEndian.PutUint32(typ)...),
	}
}

func established() []expr.Any {
	mask := expr.CtStateBitESTABLISHED | expr.CtStateBitRELATED
	return []expr.Any{
		&expr.Ct{Key: expr.CtKeySTATE, Register: 1},
		&expr.Bitwise{
			SourceRegister: 1, DestRegister: 1, Len: 4,
			Mask: binaryutil.NativeEndian.PutUint32(mask), Xor: make([]byte, 4),
		},
		is(expr.CmpOpNeq, make([]byte, 4)...),
	}
}
