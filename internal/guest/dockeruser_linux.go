package guest

import (
	"bytes"
	"fmt"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
)

// AdmitLink lets what comes by eth0 into the engine's networks, at the end of
// DOCKER-USER, the chain of iptables that the engine makes and leaves alone:
//
//	iifname eth0 accept
//
// engine.AcceptMark does the same, until a network is removed: with it dockerd
// 29 removes the rule about the mark, which is there once for all networks. It
// may be repeated; where the chain is not there, with the engine's own nftables
// rules say, nothing is done and nothing is needed.
func AdmitLink() error {
	conn, err := nftables.New()
	if err != nil {
		return err
	}
	for _, family := range []nftables.TableFamily{nftables.TableFamilyIPv4, nftables.TableFamilyIPv6} {
		chains, err := conn.ListChainsOfTableFamily(family)
		if err != nil {
			return fmt.Errorf("list chains: %w", err)
		}
		i := slices.IndexFunc(chains, func(c *nftables.Chain) bool { return c.Table.Name == "filter" && c.Name == "DOCKER-USER" })
		if i < 0 {
			continue
		}
		rules, err := conn.GetRules(chains[i].Table, chains[i])
		if err != nil {
			return fmt.Errorf("list rules of DOCKER-USER: %w", err)
		}
		if !slices.ContainsFunc(rules, admitsLink) {
			conn.AddRule(&nftables.Rule{Table: chains[i].Table, Chain: chains[i], Exprs: []expr.Any{
				&expr.Meta{Key: expr.MetaKeyIIFNAME, Register: reg},
				&expr.Cmp{Op: expr.CmpOpEq, Register: reg, Data: []byte(linkName + "\x00")}, // as iptables writes it, which has to read it
				&expr.Counter{},
				&expr.Verdict{Kind: expr.VerdictAccept},
			}})
		}
	}
	return conn.Flush()
}

// admitsLink recognizes AdmitLink's rule.
func admitsLink(rule *nftables.Rule) bool {
	name, accepts := false, false
	for _, e := range rule.Exprs {
		switch e := e.(type) {
		case *expr.Cmp:
			name = bytes.Equal(bytes.TrimRight(e.Data, "\x00"), []byte(linkName))
		case *expr.Verdict:
			accepts = e.Kind == expr.VerdictAccept
		}
	}
	return name && accepts
}
