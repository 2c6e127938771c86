package doctor

import (
	"fmt"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// ruleset is a table with one chain of the router's kind. Each probe has its
// own, so that one missing expression hides no other.
type ruleset struct {
	conn  *nftables.Conn
	table *nftables.Table
	chain *nftables.Chain
}

func newRuleset(name string) (*ruleset, error) {
	conn, err := nftables.New()
	if err != nil {
		return nil, fmt.Errorf("open nftables: %w", err)
	}
	r := &ruleset{conn: conn}
	r.table = conn.AddTable(&nftables.Table{Name: "portolan-" + name, Family: nftables.TableFamilyINet})
	r.chain = conn.AddChain(&nftables.Chain{
		Name:     "pre",
		Table:    r.table,
		Type:     nftables.ChainTypeFilter,
		Hooknum:  nftables.ChainHookPrerouting,
		Priority: nftables.ChainPriorityMangle,
	})
	return r, nil
}

// tryRule adds a rule and asks the kernel whether it takes it.
func tryRule(name string, exprs ...expr.Any) error {
	r, err := newRuleset(name)
	if err != nil {
		return err
	}
	r.conn.AddRule(&nftables.Rule{Table: r.table, Chain: r.chain, Exprs: exprs})
	return r.conn.Flush()
}

func tryTable() error { return tryRule("plain", &expr.Verdict{Kind: expr.VerdictAccept}) }

// tryTProxy: meta nfproto ipv4 meta l4proto tcp tproxy ip to 127.0.0.1:15001
func tryTProxy() error {
	return tryRule("tproxy",
		&expr.Meta{Key: expr.MetaKeyNFPROTO, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{unix.NFPROTO_IPV4}},
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{unix.IPPROTO_TCP}},
		&expr.Immediate{Register: 1, Data: []byte{127, 0, 0, 1}},
		&expr.Immediate{Register: 2, Data: binaryutil.BigEndian.PutUint16(15001)},
		&expr.TProxy{Family: unix.NFPROTO_IPV4, TableFamily: unix.NFPROTO_INET, RegAddr: 1, RegPort: 2},
	)
}

// tryFib: fib daddr type local accept, and fib daddr . iif oif missing drop
func tryFib() error {
	err := tryRule("fib-type",
		&expr.Fib{Register: 1, FlagDADDR: true, ResultADDRTYPE: true},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: binaryutil.NativeEndian.PutUint32(unix.RTN_LOCAL)},
		&expr.Verdict{Kind: expr.VerdictAccept},
	)
	if err != nil {
		return err
	}
	return tryRule("fib-oif",
		&expr.Fib{Register: 1, FlagDADDR: true, FlagIIF: true, ResultOIF: true},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: binaryutil.NativeEndian.PutUint32(0)},
		&expr.Verdict{Kind: expr.VerdictDrop},
	)
}

// tryMasquerade: masquerade, in a chain of its own kind
func tryMasquerade() error {
	r, err := newRuleset("masquerade")
	if err != nil {
		return err
	}
	chain := r.conn.AddChain(&nftables.Chain{
		Name:     "post",
		Table:    r.table,
		Type:     nftables.ChainTypeNAT,
		Hooknum:  nftables.ChainHookPostrouting,
		Priority: nftables.ChainPriorityNATSource,
	})
	r.conn.AddRule(&nftables.Rule{Table: r.table, Chain: chain, Exprs: []expr.Any{&expr.Masq{}}})
	return r.conn.Flush()
}

// tryLimit: update @s { ip saddr limit rate over 10/second burst 10 packets } drop
func tryLimit() error {
	r, err := newRuleset("limit")
	if err != nil {
		return err
	}
	set := &nftables.Set{Table: r.table, Name: "s", KeyType: nftables.TypeIPAddr, Dynamic: true, Size: 16}
	if err := r.conn.AddSet(set, nil); err != nil {
		return fmt.Errorf("add set: %w", err)
	}
	const sourceOffset, addressLength = 12, 4 // RFC 791 section 3.1
	r.conn.AddRule(&nftables.Rule{Table: r.table, Chain: r.chain, Exprs: []expr.Any{
		&expr.Meta{Key: expr.MetaKeyNFPROTO, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{unix.NFPROTO_IPV4}},
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: sourceOffset, Len: addressLength},
		&expr.Dynset{
			SrcRegKey: 1, SetName: set.Name, SetID: set.ID, Operation: uint32(unix.NFT_DYNSET_OP_UPDATE),
			Exprs: []expr.Any{&expr.Limit{Type: expr.LimitTypePkts, Rate: 10, Unit: expr.LimitTimeSecond, Burst: 10, Over: true}},
		},
		&expr.Verdict{Kind: expr.VerdictDrop},
	}})
	return r.conn.Flush()
}
