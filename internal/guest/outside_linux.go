package guest

import (
	"cmp"
	"net/netip"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"github.com/portolan-net/portolan/internal/portolan"
)

// outsideTable is there while a host that is connected may reach some ports only.
const outsideTable = "portolan-outside"

// LimitOutside lets the connected host, whose addresses outside are, reach the
// listed ports of containers only, and their ping. With nil it may reach all. It
// counts for connections that stand as well:
//
//	table inet portolan-outside {
//	  chain forward { type filter hook forward priority filter - 10;
//	    iifname eth0 ip saddr 192.168.65.253 jump listed
//	    iifname eth0 ip6 saddr fdc4:f303:9324::253 jump listed
//	  }
//	  chain input { type filter hook input priority filter - 10; ... }   # the same
//	  chain listed {
//	    meta l4proto icmp accept
//	    meta l4proto icmpv6 accept
//	    ip daddr 172.17.0.2 meta l4proto tcp th dport 80-81 accept       # for each range
//	    meta l4proto tcp reject with tcp reset
//	    reject with icmpx port-unreachable
//	  }
//	}
func LimitOutside(outside portolan.Pair, ports []portolan.Port) error {
	conn, err := nftables.New()
	if err != nil {
		return err
	}
	table := &nftables.Table{Name: outsideTable, Family: nftables.TableFamilyINet}
	conn.AddTable(table) // so that the next line succeeds when there is none
	conn.DelTable(table)
	if ports != nil {
		conn.AddTable(table)
		addOutside(conn, table, outside, ports)
	}
	return conn.Flush()
}

func addOutside(conn *nftables.Conn, table *nftables.Table, outside portolan.Pair, ports []portolan.Port) {
	add := func(chain *nftables.Chain, exprs ...[]expr.Any) {
		conn.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: slices.Concat(exprs...)})
	}
	listed := conn.AddChain(&nftables.Chain{Name: "listed", Table: table})
	add(listed, transport(unix.IPPROTO_ICMP), verdict(expr.VerdictAccept))
	add(listed, transport(unix.IPPROTO_ICMPV6), verdict(expr.VerdictAccept))
	for _, r := range spansOf(ports) {
		number := byte(unix.IPPROTO_TCP)
		if r.proto == portolan.UDP {
			number = unix.IPPROTO_UDP
		}
		add(listed, daddr(r.addr), transport(number), dports(r.first, r.last), verdict(expr.VerdictAccept))
	}
	add(listed, isTCP(), []expr.Any{&expr.Reject{Type: unix.NFT_REJECT_TCP_RST}})
	add(listed, []expr.Any{&expr.Reject{Type: unix.NFT_REJECT_ICMPX_UNREACH, Code: unix.NFT_REJECT_ICMPX_PORT_UNREACH}})
	for name, hook := range map[string]*nftables.ChainHook{"forward": nftables.ChainHookForward, "input": nftables.ChainHookInput} {
		const beforeEngine = -10 // whose chains are at 0
		chain := conn.AddChain(&nftables.Chain{
			Name: name, Table: table, Type: nftables.ChainTypeFilter,
			Hooknum: hook, Priority: nftables.ChainPriorityRef(beforeEngine),
		})
		for _, own := range []netip.Addr{outside.V4, outside.V6} {
			add(chain, ifname(expr.MetaKeyIIFNAME, linkName), saddr(own), []expr.Any{&expr.Verdict{Kind: expr.VerdictJump, Chain: listed.Name}})
		}
	}
}

// span is some ports of an address, one after the other.
type span struct {
	addr        netip.Addr
	proto       portolan.Proto
	first, last uint16
}

// spansOf puts together what belongs together: thousands of ports that were
// published as one range are one rule.
func spansOf(ports []portolan.Port) []span {
	sorted := slices.SortedFunc(slices.Values(ports), func(a, b portolan.Port) int {
		return cmp.Or(a.Host.Addr().Compare(b.Host.Addr()), cmp.Compare(a.Proto, b.Proto), cmp.Compare(a.Host.Port(), b.Host.Port()))
	})
	var ranges []span
	for _, p := range sorted {
		addr, port := p.Host.Addr(), p.Host.Port()
		if n := len(ranges) - 1; n >= 0 && ranges[n].addr == addr && ranges[n].proto == p.Proto && int(port) <= int(ranges[n].last)+1 {
			ranges[n].last = port
			continue
		}
		ranges = append(ranges, span{addr, p.Proto, port, port})
	}
	return ranges
}

// Where addresses are in the headers of RFC 791 and RFC 8200.
func saddr(addr netip.Addr) []expr.Any {
	if addr.Is4() {
		return address(addr, 12)
	}
	return address(addr, 8)
}

func daddr(addr netip.Addr) []expr.Any {
	if addr.Is4() {
		return address(addr, 16)
	}
	return address(addr, 24)
}

func address(addr netip.Addr, offset uint32) []expr.Any {
	family := byte(unix.NFPROTO_IPV6)
	if addr.Is4() {
		family = unix.NFPROTO_IPV4
	}
	bytes := addr.AsSlice()
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyNFPROTO, Register: reg},
		&expr.Cmp{Op: expr.CmpOpEq, Register: reg, Data: []byte{family}},
		&expr.Payload{DestRegister: reg, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: uint32(len(bytes))},
		&expr.Cmp{Op: expr.CmpOpEq, Register: reg, Data: bytes},
	}
}

// dports matches the destination's port, which is in the same place in TCP and UDP.
func dports(first, last uint16) []expr.Any {
	return []expr.Any{
		&expr.Payload{DestRegister: reg, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2},
		&expr.Range{Op: expr.CmpOpEq, Register: reg, FromData: binaryutil.BigEndian.PutUint16(first), ToData: binaryutil.BigEndian.PutUint16(last)},
	}
}
