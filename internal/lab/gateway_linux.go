package lab

import (
	"fmt"
	"net/netip"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// refusal is what the gateway does with packets to a pair of addresses.
type refusal struct {
	addrs []string
	does  expr.Any
}

func refusals() []refusal {
	reject := func(code uint8) expr.Any {
		return &expr.Reject{Type: unix.NFT_REJECT_ICMPX_UNREACH, Code: code}
	}
	return []refusal{
		{[]string{NetUnreachableV4, NetUnreachableV6}, reject(unix.NFT_REJECT_ICMPX_NO_ROUTE)},
		{[]string{ProhibitedV4, ProhibitedV6}, reject(unix.NFT_REJECT_ICMPX_ADMIN_PROHIBITED)},
		{[]string{HostUnreachableV4, HostUnreachableV6}, reject(unix.NFT_REJECT_ICMPX_HOST_UNREACH)},
		{[]string{BlackHoleV4, BlackHoleV6}, &expr.Verdict{Kind: expr.VerdictDrop}},
	}
}

// refuseOn makes the gateway refuse. Netfilter does it and not routes, since
// IPv6 unreachable routes answer "no route" whatever their type.
func refuseOn(gateway *Node) error {
	conn, err := nftables.New(nftables.WithNetNSFd(int(gateway.ns.net.Fd())))
	if err != nil {
		return fmt.Errorf("open nftables: %w", err)
	}
	table := conn.AddTable(&nftables.Table{Name: "lab", Family: nftables.TableFamilyINet})
	chain := conn.AddChain(&nftables.Chain{
		Name: "refuse", Table: table, Type: nftables.ChainTypeFilter,
		Hooknum: nftables.ChainHookForward, Priority: nftables.ChainPriorityFilter,
	})
	for _, r := range refusals() {
		for _, a := range r.addrs {
			exprs := append(matchDestination(netip.MustParseAddr(a)), r.does)
			conn.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: exprs})
		}
	}
	if err := conn.Flush(); err != nil {
		return fmt.Errorf("set the gateway's refusals: %w", err)
	}
	return nil
}

// matchDestination is "ip daddr ADDR" or "ip6 daddr ADDR".
func matchDestination(addr netip.Addr) []expr.Any {
	family, offset := byte(unix.NFPROTO_IPV4), uint32(16)
	if addr.Is6() {
		family, offset = unix.NFPROTO_IPV6, 24
	}
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyNFPROTO, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{family}},
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: uint32(addr.BitLen() / 8)},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: addr.AsSlice()},
	}
}
