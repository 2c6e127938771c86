package guest

import (
	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"github.com/portolan-net/portolan/internal/engine"
	"github.com/portolan-net/portolan/internal/portolan"
)

// tableName is the one table of ours in the machine; dockerd owns all others.
const tableName = "portolan"

// installFirewall replaces our table, in one transaction:
//
//	table inet portolan {
//	  chain pre { type filter hook prerouting priority mangle;
//	    iifname lo accept
//	    iifname eth0 meta mark set engine.AcceptMark accept
//	    fib saddr . iif oif missing drop            # forged sources
//	    ct state established,related accept
//	    fib daddr type != unicast accept
//	    fib daddr oifname eth0 accept
//	    fib daddr . iif oif missing drop            # other container networks
//	  }
//	  chain forward { type filter hook forward priority filter;
//	    iifname eth0 oifname eth0 meta l4proto tcp reject with tcp reset
//	    iifname eth0 oifname eth0 reject with icmpx host-unreachable
//	  }
//	  chain post { type nat hook postrouting priority srcnat;
//	    ip saddr 192.168.65.253 masquerade          # a connected host
//	    ip saddr 192.168.65.1 masquerade            # clients of the SOCKS server
//	    ip6 saddr fdc4:f303:9324::253 masquerade
//	    ip6 saddr fdc4:f303:9324::1 masquerade
//	  }
//	}
//
// What comes by eth0 was dialed by the daemon, or by a host that is connected; the
// mark makes the engine let it in where it did not publish the port itself. See
// AdmitLink for where that is not enough.
//
// The engine runs with allow-direct-routing, because nothing is masqueraded;
// the last rule of pre closes what that would open between its networks. A
// packet that came by eth0 and would leave by it again is for a network that
// has gone: it is answered, or it would go round until its TTL ends.
//
// A container on several networks answers by the way of its default route only,
// where the source of all its other addresses is forged. So those who may ask for
// any address come as the network's own gateway, which is on every container's link.
func installFirewall(link portolan.Link) error {
	conn, err := nftables.New()
	if err != nil {
		return err
	}
	table := &nftables.Table{Name: tableName, Family: nftables.TableFamilyINet}
	conn.AddTable(table) // so that the next line succeeds when there is none
	conn.DelTable(table)
	conn.AddTable(table)
	pre := conn.AddChain(&nftables.Chain{
		Name: "pre", Table: table, Type: nftables.ChainTypeFilter,
		Hooknum: nftables.ChainHookPrerouting, Priority: nftables.ChainPriorityMangle,
	})
	forward := conn.AddChain(&nftables.Chain{
		Name: "forward", Table: table, Type: nftables.ChainTypeFilter,
		Hooknum: nftables.ChainHookForward, Priority: nftables.ChainPriorityFilter,
	})
	add := func(chain *nftables.Chain, exprs ...[]expr.Any) {
		var all []expr.Any
		for _, e := range exprs {
			all = append(all, e...)
		}
		conn.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: all})
	}
	add(pre, ifname(expr.MetaKeyIIFNAME, "lo"), verdict(expr.VerdictAccept))
	add(pre, ifname(expr.MetaKeyIIFNAME, linkName), setMark(engine.AcceptMark), verdict(expr.VerdictAccept))
	add(pre, noRoute(expr.Fib{FlagSADDR: true, FlagIIF: true}), verdict(expr.VerdictDrop))
	add(pre, established(), verdict(expr.VerdictAccept))
	add(pre, notUnicast(), verdict(expr.VerdictAccept))
	add(pre, leavesBy(linkName), verdict(expr.VerdictAccept))
	add(pre, noRoute(expr.Fib{FlagDADDR: true, FlagIIF: true}), verdict(expr.VerdictDrop))
	hairpin := append(ifname(expr.MetaKeyIIFNAME, linkName), ifname(expr.MetaKeyOIFNAME, linkName)...)
	add(forward, hairpin, isTCP(), []expr.Any{&expr.Reject{Type: unix.NFT_REJECT_TCP_RST}})
	add(forward, hairpin, []expr.Any{&expr.Reject{Type: unix.NFT_REJECT_ICMPX_UNREACH, Code: unix.NFT_REJECT_ICMPX_HOST_UNREACH}})
	post := conn.AddChain(&nftables.Chain{
		Name: "post", Table: table, Type: nftables.ChainTypeNAT,
		Hooknum: nftables.ChainHookPostrouting, Priority: nftables.ChainPriorityNATSource,
	})
	for _, asker := range []portolan.Pair{link.Outside(), link.Gateway()} {
		add(post, saddr(asker.V4), []expr.Any{&expr.Masq{}})
		add(post, saddr(asker.V6), []expr.Any{&expr.Masq{}})
	}
	return conn.Flush()
}

// reg is the register all expressions pass their value in.
const reg = 1

func verdict(kind expr.VerdictKind) []expr.Any { return []expr.Any{&expr.Verdict{Kind: kind}} }

// paddedName is an interface name as the kernel compares it: all 16 bytes.
func paddedName(name string) []byte {
	padded := make([]byte, unix.IFNAMSIZ)
	copy(padded, name)
	return padded
}

func ifname(key expr.MetaKey, name string) []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: key, Register: reg},
		&expr.Cmp{Op: expr.CmpOpEq, Register: reg, Data: paddedName(name)},
	}
}

// noRoute matches when the look-up yields no interface.
func noRoute(fib expr.Fib) []expr.Any {
	fib.Register, fib.ResultOIF = reg, true
	return []expr.Any{&fib, &expr.Cmp{Op: expr.CmpOpEq, Register: reg, Data: binaryutil.NativeEndian.PutUint32(0)}}
}

func setMark(mark uint32) []expr.Any {
	return []expr.Any{
		&expr.Immediate{Register: reg, Data: binaryutil.NativeEndian.PutUint32(mark)},
		&expr.Meta{Key: expr.MetaKeyMARK, SourceRegister: true, Register: reg},
	}
}

func leavesBy(name string) []expr.Any {
	return []expr.Any{
		&expr.Fib{Register: reg, FlagDADDR: true, ResultOIFNAME: true},
		&expr.Cmp{Op: expr.CmpOpEq, Register: reg, Data: paddedName(name)},
	}
}

func notUnicast() []expr.Any {
	return []expr.Any{
		&expr.Fib{Register: reg, FlagDADDR: true, ResultADDRTYPE: true},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: reg, Data: binaryutil.NativeEndian.PutUint32(unix.RTN_UNICAST)},
	}
}

func established() []expr.Any {
	mask := expr.CtStateBitESTABLISHED | expr.CtStateBitRELATED
	return []expr.Any{
		&expr.Ct{Key: expr.CtKeySTATE, Register: reg},
		&expr.Bitwise{
			SourceRegister: reg, DestRegister: reg, Len: 4,
			Mask: binaryutil.NativeEndian.PutUint32(mask), Xor: make([]byte, 4),
		},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: reg, Data: make([]byte, 4)},
	}
}

func isTCP() []expr.Any { return transport(unix.IPPROTO_TCP) }

func transport(number byte) []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: reg},
		&expr.Cmp{Op: expr.CmpOpEq, Register: reg, Data: []byte{number}},
	}
}
