package router

import (
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"github.com/portolan-net/portolan/internal/portolan"
)

// The packet filter, in the language of nft(8):
//
//	chain pre { type filter hook prerouting priority mangle;
//	 meta mark 4 accept                                                                       (7)
//	 iifname e0 ether saddr != MACHINE ip saddr != 192.168.65.0/24 drop                       (0)
//	 iifname e0 ether saddr != MACHINE ip saddr 192.168.65.3 drop
//	 iifname slow0 tcp flags & rst == rst accept                                              (1)
//	 iifname slow0 meta l4proto tcp tproxy to :15001 meta mark set 1 accept                   (2)
//	 iifname e0 tcp flags & (syn|ack) == syn update @syn4 { ip saddr limit rate over 10000/second burst 10000 packets } drop
//	 iifname e0 tcp flags & (syn|ack) == syn update @synnet4 { ip saddr & 255.255.0.0 limit rate over 20000/second burst 20000 packets } drop
//	 iifname e0 tcp flags & (syn|ack) == syn meta mark set 2 accept                           (3)
//	 iifname e0 meta l4proto tcp tproxy to :1 meta mark set 1 accept                          (4)
//	 iifname e0 tcp flags & rst == 0 update @stray4 { ip saddr limit rate 10/second burst 10 packets }
//	  update @straynet4 { ip saddr & 255.255.0.0 limit rate 20/second burst 20 packets }
//	  limit rate 100/second burst 100 packets meta mark set 2 accept                          (5)
//	 iifname e0 icmp type { destination-unreachable, time-exceeded, parameter-problem } meta mark set 1 accept
//	 iifname e0 icmpv6 type { destination-unreachable, packet-too-big, time-exceeded, parameter-problem } meta mark set 1 accept
//	 iifname e0 meta l4proto != { tcp, udp } fib daddr type != { local, multicast } meta mark set 2 accept
//	 iifname e0 meta l4proto { tcp, udp } tproxy to :15001 meta mark set 1 accept             (6)
//	 iifname e0 meta l4proto { tcp, udp } drop
//	}
//	chain forward { type filter hook forward priority filter; policy drop;
//	 iifname e0 oifname slow0 accept; iifname slow0 oifname e0 accept;
//	 iifname e0 oifname h0 accept; iifname h0 oifname e0 accept; }                            (7)
//
// (0) A container on macvlan speaks for itself only: its frames have a hardware
// address of its own, and everything behind the machine comes with the
// machine's. IPv6 alike, with link-local and unspecified sources for NDP.
// (1) Resets that the daemon wrote.
// (2) What the daemon gives back, a SYN mostly.
// (3) A new connection: held. It stands before (4), because a socket in TIME_WAIT
// would answer the SYN of a reused port with an ACK; (2) knows how to replace it.
// (4) Of a connection that stands. No listener has port 1, so this matches what has
// a socket of its own, and the kernel looks for it only here.
// (5) Of no connection, it seems. But while one processor makes one of a handshake,
// another may find neither (seen with Linux 6.18), and the client's first bytes would be
// answered with a reset. The daemon gives the packet back, and by then it is clear.
// That is one packet of thousands of connections, so few are let through: each may
// be 64 KB, which slow0 has in 45 pieces.
// (6) Else a packet without listener loops over e0 until its TTL ends. That of TCP
// is reset.
// (7) Of a host that is connected; connect_linux.go says who gets the mark.
const filterTable = "portolan"

// proxyPort is where the transparent listeners are, on the loopback addresses, and
// nobodysPort where there is none.
const (
	proxyPort   = 15001
	nobodysPort = 1
)

// Packets of no connection that the daemon looks at in a second: of a source, of a
// network, whose containers may forge each other's addresses, and of all.
const (
	strayRate    = 10
	strayNetRate = 2 * strayRate
	strayAllRate = 100
)

// A source may open 10,000 connections a second. More is a flood: it would
// cost every other container the daemon's attention.
// A network, whose containers may forge each other's addresses, gets twice that.
const (
	synRate    = 10000
	netRate    = 2 * synRate
	synSources = 65535            // sources that are counted at a time
	synForget  = 60 * time.Second // of silence, then a source is not counted
)

// family holds what differs between the families.
type family struct {
	nfproto  byte
	loopback netip.Addr
	saddr    *expr.Payload
	onLink   []netip.Prefix // sources of the link itself
	machine  netip.Addr
	icmp     byte   // protocol number
	errors   []byte // ICMP types that concern the router's own sockets
	suffix   string // of the names of sets
	network  int    // bits that stand for a container network in a set
	keyType  nftables.SetDatatype
}

func families(link portolan.Link) []family {
	machine := link.Machine()
	return []family{
		{
			onLink: []netip.Prefix{link.V4}, machine: machine.V4,
			nfproto: unix.NFPROTO_IPV4, loopback: loopback4, icmp: protoICMP, errors: []byte{3, 11, 12},
			saddr:  &expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: 12, Len: 4},
			suffix: "4", keyType: nftables.TypeIPAddr, network: 16,
		},
		{
			onLink: []netip.Prefix{link.V6, linkLocal6, unspecified6}, machine: machine.V6,
			nfproto: unix.NFPROTO_IPV6, loopback: loopback6, icmp: protoICMPv6, errors: []byte{1, 2, 3, 4},
			saddr:  &expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: 8, Len: 16},
			suffix: "6", keyType: nftables.TypeIP6Addr, network: 64,
		},
	}
}

// Sources that IPv6's neighbour discovery uses besides the link's own (RFC 4861, 4.3).
var (
	linkLocal6   = netip.MustParsePrefix("fe80::/10")
	unspecified6 = netip.MustParsePrefix("::/128")
)

// setupRules installs the filter in one transaction, in place of an earlier one.
func setupRules(link portolan.Link) error {
	c, err := nftables.New()
	if err != nil {
		return fmt.Errorf("open nftables: %w", err)
	}
	table := c.AddTable(&nftables.Table{Name: filterTable, Family: nftables.TableFamilyINet}) // so that there is one
	c.DelTable(table)
	c.AddTable(table)
	if err := addPrerouting(c, table, families(link)); err != nil {
		return err
	}
	addForward(c, table)
	if err := c.Flush(); err != nil {
		return fmt.Errorf("install packet filter: %w", err)
	}
	return nil
}

func addPrerouting(c *nftables.Conn, table *nftables.Table, both []family) error {
	chain := c.AddChain(&nftables.Chain{
		Name: "pre", Table: table, Type: nftables.ChainTypeFilter,
		Hooknum: nftables.ChainHookPrerouting, Priority: nftables.ChainPriorityMangle,
	})
	add := func(parts ...[]expr.Any) {
		var exprs []expr.Any
		for _, part := range parts {
			exprs = append(exprs, part...)
		}
		c.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: exprs})
	}
	add(marked(markForward), accept())
	for _, f := range both {
		add(iif(linkName), foreignMAC(), nfproto(f), sourceOutside(f, f.onLink), drop())
		add(iif(linkName), foreignMAC(), nfproto(f), []expr.Any{f.saddr, is(expr.CmpOpEq, f.machine.AsSlice()...)}, drop())
	}
	add(iif(slowName), tcpFlags(flagRST, flagRST), accept())
	for _, f := range both {
		add(iif(slowName), l4proto(expr.CmpOpEq, unix.IPPROTO_TCP), nfproto(f), tproxy(f, proxyPort), mark(markLocal), accept())
	}
	for _, f := range both {
		for _, bound := range []struct {
			set  string
			bits int
			rate uint64
		}{{"syn", f.machine.BitLen(), synRate}, {"synnet", f.network, netRate}} {
			set, err := countingSet(c, table, f, bound.set)
			if err != nil {
				return err
			}
			add(iif(linkName), syn(), nfproto(f), sourceNetwork(f, bound.bits), keyedRate(set, bound.rate, true), drop())
		}
	}
	add(iif(linkName), syn(), mark(markSlow), accept())
	for _, f := range both {
		add(iif(linkName), l4proto(expr.CmpOpEq, unix.IPPROTO_TCP), nfproto(f), tproxy(f, nobodysPort), mark(markLocal), accept())
	}
	for _, f := range both {
		source, err := countingSet(c, table, f, "stray")
		if err != nil {
			return err
		}
		network, err := countingSet(c, table, f, "straynet")
		if err != nil {
			return err
		}
		add(iif(linkName), tcpFlags(flagRST, 0), nfproto(f), sourceNetwork(f, f.machine.BitLen()), keyedRate(source, strayRate, false),
			sourceNetwork(f, f.network), keyedRate(network, strayNetRate, false), []expr.Any{rate(strayAllRate, false)}, mark(markSlow), accept())
	}
	for _, f := range both {
		for _, typ := range f.errors {
			add(iif(linkName), nfproto(f), l4proto(expr.CmpOpEq, f.icmp), icmpType(typ), mark(markLocal), accept())
		}
	}
	add(iif(linkName), l4proto(expr.CmpOpNeq, unix.IPPROTO_TCP), l4proto(expr.CmpOpNeq, unix.IPPROTO_UDP),
		daddrTypeNot(unix.RTN_LOCAL, unix.RTN_MULTICAST), mark(markSlow), accept())
	for _, proto := range []byte{unix.IPPROTO_TCP, unix.IPPROTO_UDP} {
		for _, f := range both {
			add(iif(linkName), l4proto(expr.CmpOpEq, proto), nfproto(f), tproxy(f, proxyPort), mark(markLocal), accept())
		}
		add(iif(linkName), l4proto(expr.CmpOpEq, proto), drop())
	}
	return nil
}

func addForward(c *nftables.Conn, table *nftables.Table) {
	policy := nftables.ChainPolicyDrop
	chain := c.AddChain(&nftables.Chain{
		Name: "forward", Table: table, Type: nftables.ChainTypeFilter, Policy: &policy,
		Hooknum: nftables.ChainHookForward, Priority: nftables.ChainPriorityFilter,
	})
	for _, way := range [][2]string{{linkName, slowName}, {slowName, linkName}, {linkName, hostName}, {hostName, linkName}} {
		exprs := append(iif(way[0]), oif(way[1])...)
		c.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: append(exprs, accept()...)})
	}
}

// The parts of a rule.

func load(key expr.MetaKey) expr.Any { return &expr.Meta{Key: key, Register: 1} }

func is(op expr.CmpOp, data ...byte) expr.Any { return &expr.Cmp{Op: op, Register: 1, Data: data} }

func ifname(name string) []byte {
	return append([]byte(name), make([]byte, unix.IFNAMSIZ-len(name))...)
}

func iif(name string) []expr.Any {
	return []expr.Any{load(expr.MetaKeyIIFNAME), is(expr.CmpOpEq, ifname(name)...)}
}

func oif(name string) []expr.Any {
	return []expr.Any{load(expr.MetaKeyOIFNAME), is(expr.CmpOpEq, ifname(name)...)}
}

func nfproto(f family) []expr.Any {
	return []expr.Any{load(expr.MetaKeyNFPROTO), is(expr.CmpOpEq, f.nfproto)}
}

func l4proto(op expr.CmpOp, proto byte) []expr.Any {
	return []expr.Any{load(expr.MetaKeyL4PROTO), is(op, proto)}
}

// foreignMAC matches frames that the machine itself did not send.
func foreignMAC() []expr.Any {
	return []expr.Any{
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseLLHeader, Offset: 6, Len: 6},
		is(expr.CmpOpNeq, machineMAC()...),
	}
}

// sourceOutside matches sources in none of the networks.
func sourceOutside(f family, networks []netip.Prefix) []expr.Any {
	var exprs []expr.Any
	for _, network := range networks {
		exprs = append(exprs, sourceNetwork(f, network.Bits())...)
		exprs = append(exprs, is(expr.CmpOpNeq, network.Masked().Addr().AsSlice()...))
	}
	return exprs
}

// sourceNetwork loads the first bits of the source address.
func sourceNetwork(f family, bits int) []expr.Any {
	size := f.machine.BitLen() / 8
	return []expr.Any{f.saddr, &expr.Bitwise{
		SourceRegister: 1, DestRegister: 1, Len: uint32(size), Mask: net.CIDRMask(bits, 8*size), Xor: make([]byte, size),
	}}
}

func syn() []expr.Any { return tcpFlags(flagSYN|flagACK, flagSYN) }

// tcpFlags matches TCP whose flags among which are these.
func tcpFlags(which, are byte) []expr.Any {
	return append(l4proto(expr.CmpOpEq, unix.IPPROTO_TCP),
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: 13, Len: 1},
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 1, Mask: []byte{which}, Xor: []byte{0}},
		is(expr.CmpOpEq, are))
}

func icmpType(typ byte) []expr.Any {
	return []expr.Any{
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: 0, Len: 1},
		is(expr.CmpOpEq, typ),
	}
}

func daddrTypeNot(types ...uint32) []expr.Any {
	out := []expr.Any{&expr.Fib{Register: 1, FlagDADDR: true, ResultADDRTYPE: true}}
	for _, typ := range types {
		out = append(out, is(expr.CmpOpNeq, binaryutil.NativeEndian.PutUint32(typ)...))
	}
	return out
}

// countingSet adds a set of sources or networks whose packets are counted.
func countingSet(c *nftables.Conn, table *nftables.Table, f family, name string) (*nftables.Set, error) {
	set := &nftables.Set{
		Table: table, Name: name + f.suffix, KeyType: f.keyType, Dynamic: true,
		HasTimeout: true, Timeout: synForget, Size: synSources,
	}
	if err := c.AddSet(set, nil); err != nil {
		return nil, fmt.Errorf("add set %s: %w", set.Name, err)
	}
	return set, nil
}

// keyedRate matches up to so many packets a second for the key that is loaded, or
// only what is over that.
func keyedRate(set *nftables.Set, perSecond uint64, over bool) []expr.Any {
	return []expr.Any{&expr.Dynset{
		SrcRegKey: 1, SetName: set.Name, SetID: set.ID,
		Operation: unix.NFT_DYNSET_OP_UPDATE, Exprs: []expr.Any{rate(perSecond, over)},
	}}
}

func rate(perSecond uint64, over bool) expr.Any {
	return &expr.Limit{Type: expr.LimitTypePkts, Rate: perSecond, Burst: uint32(perSecond), Unit: expr.LimitTimeSecond, Over: over}
}

// tproxy matches what belongs to a connection, or else to the listener on port.
func tproxy(f family, port uint16) []expr.Any {
	return []expr.Any{
		&expr.Immediate{Register: 1, Data: f.loopback.AsSlice()},
		&expr.Immediate{Register: 2, Data: binaryutil.BigEndian.PutUint16(port)},
		&expr.TProxy{Family: f.nfproto, TableFamily: unix.NFPROTO_INET, RegAddr: 1, RegPort: 2},
	}
}

func mark(value uint32) []expr.Any {
	return []expr.Any{
		&expr.Immediate{Register: 1, Data: binaryutil.NativeEndian.PutUint32(value)},
		&expr.Meta{Key: expr.MetaKeyMARK, Register: 1, SourceRegister: true},
	}
}

func marked(value uint32) []expr.Any {
	return []expr.Any{load(expr.MetaKeyMARK), is(expr.CmpOpEq, binaryutil.NativeEndian.PutUint32(value)...)}
}

func accept() []expr.Any { return []expr.Any{&expr.Verdict{Kind: expr.VerdictAccept}} }

func drop() []expr.Any { return []expr.Any{&expr.Verdict{Kind: expr.VerdictDrop}} }
