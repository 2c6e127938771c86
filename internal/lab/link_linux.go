package lab

import (
	"errors"
	"fmt"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Link is the cable between a node and the switch. What is set on it holds in
// both directions.
type Link struct {
	name  string
	lab   *Lab
	node  *Node
	iface string
	make  func() error // what made it
}

// Link returns a node's link: host, neighbour, gateway (its LAN side), uplink
// (the gateway's other side) or internet.
func (l *Lab) Link(name string) *Link {
	link, ok := l.links[name]
	if !ok {
		panic(fmt.Sprintf("lab: no link %q", name))
	}
	return link
}

// Down pulls the cable: the node's interface loses its carrier.
func (k *Link) Down() error { return k.set(k.lab.fabric.nl.LinkSetDown) }

// Up plugs it in again.
func (k *Link) Up() error { return k.set(k.lab.fabric.nl.LinkSetUp) }

// Remove takes the node's interface away, with its addresses and routes.
func (k *Link) Remove() error { return k.set(k.lab.fabric.nl.LinkDel) }

// Replace gives the node, in place of the removed interface, another one of its
// name, with the same addresses and default routes.
func (k *Link) Replace() error {
	if err := k.make(); err != nil {
		return fmt.Errorf("replace link of %s: %w", k.name, err)
	}
	return k.lab.awaitCarriers()
}

func (k *Link) set(change func(netlink.Link) error) error {
	port, err := k.lab.fabric.nl.LinkByName(k.name)
	if err == nil {
		err = change(port)
	}
	if err != nil {
		return fmt.Errorf("set link of %s: %w", k.name, err)
	}
	return nil
}

// SetLoss drops that share of the packets, 0 to 1, at random. With 1 the link
// is cut in silence: the carrier stays.
func (k *Link) SetLoss(share float64) error {
	if share < 0 || share > 1 {
		return fmt.Errorf("set loss of %s: %v is not between 0 and 1", k.name, share)
	}
	k.lab.mu.Lock()
	defer k.lab.mu.Unlock()
	k.lab.loss[k.name] = share
	if err := k.lab.applyLossLocked(); err != nil {
		return fmt.Errorf("set loss of %s: %w", k.name, err)
	}
	return nil
}

// lossSteps is the resolution of a share: a hundredth of a percent.
const lossSteps = 10000

// applyLossLocked replaces the switch's table of drops in one transaction. It
// is nftables and not netem because many kernels lack that.
func (l *Lab) applyLossLocked() error {
	conn, err := nftables.New(nftables.WithNetNSFd(int(l.fabric.ns.net.Fd())))
	if err != nil {
		return err
	}
	table := &nftables.Table{Name: "loss", Family: nftables.TableFamilyBridge}
	conn.AddTable(table) // so that the deletion finds it
	conn.DelTable(table)
	conn.AddTable(table)
	chain := conn.AddChain(&nftables.Chain{
		Name: "forward", Table: table, Type: nftables.ChainTypeFilter,
		Hooknum: nftables.ChainHookForward, Priority: nftables.ChainPriorityFilter,
	})
	for name, share := range l.loss {
		for _, side := range []expr.MetaKey{expr.MetaKeyIIFNAME, expr.MetaKeyOIFNAME} {
			conn.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: dropShare(side, name, share)})
		}
	}
	return conn.Flush()
}

// dropShare is "iifname NAME numgen random mod 10000 < N drop".
func dropShare(side expr.MetaKey, name string, share float64) []expr.Any {
	padded := make([]byte, unix.IFNAMSIZ)
	copy(padded, name)
	limit := uint32(share * lossSteps)
	return []expr.Any{
		&expr.Meta{Key: side, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: padded},
		&expr.Numgen{Register: 1, Modulus: lossSteps, Type: unix.NFT_NG_RANDOM},
		&expr.Byteorder{SourceRegister: 1, DestRegister: 1, Op: expr.ByteorderHton, Len: 4, Size: 4},
		&expr.Cmp{Op: expr.CmpOpLt, Register: 1, Data: []byte{byte(limit >> 24), byte(limit >> 16), byte(limit >> 8), byte(limit)}},
		&expr.Verdict{Kind: expr.VerdictDrop},
	}
}

// SetRate limits the link to that many bits per second each way; 0 lifts the
// limit. It replaces a delay.
func (k *Link) SetRate(bits uint64) error {
	rate := bits / 8
	// Room for 10 ms of traffic, at least two full-size packets, and a queue
	// of 100 ms behind it.
	burst := max(uint32(rate/100), 2*65536)
	return k.setQdisc(bits == 0, func(attrs netlink.QdiscAttrs) netlink.Qdisc {
		return &netlink.Tbf{QdiscAttrs: attrs, Rate: rate, Buffer: netlink.Xmittime(rate, burst), Limit: burst + uint32(rate/10)}
	})
}

// SetDelay holds each packet for d, each way; 0 lifts it. It replaces a rate.
// The error is errors.ErrUnsupported where the kernel has no netem.
func (k *Link) SetDelay(d time.Duration) error {
	err := k.setQdisc(d == 0, func(attrs netlink.QdiscAttrs) netlink.Qdisc {
		return netlink.NewNetem(attrs, netlink.NetemQdiscAttrs{Latency: uint32(d.Microseconds()), Limit: 100_000})
	})
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EOPNOTSUPP) {
		return fmt.Errorf("delay link of %s: the kernel has no netem: %w", k.name, errors.ErrUnsupported)
	}
	return err
}

// setQdisc puts a queue at both ends of the link, or takes it away.
func (k *Link) setQdisc(remove bool, make func(netlink.QdiscAttrs) netlink.Qdisc) error {
	for _, end := range []struct {
		node  *Node
		iface string
	}{{k.lab.fabric, k.name}, {k.node, k.iface}} {
		link, err := end.node.nl.LinkByName(end.iface)
		if err != nil {
			return fmt.Errorf("shape link of %s: %w", k.name, err)
		}
		attrs := netlink.QdiscAttrs{LinkIndex: link.Attrs().Index, Handle: netlink.MakeHandle(1, 0), Parent: netlink.HANDLE_ROOT}
		// Without a queue of ours there is nothing to delete.
		err = end.node.nl.QdiscDel(make(attrs))
		if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EINVAL) {
			err = nil
		}
		if err == nil && !remove {
			err = end.node.nl.QdiscAdd(make(attrs))
		}
		if err != nil {
			return fmt.Errorf("shape link of %s: %w", k.name, err)
		}
	}
	return nil
}
