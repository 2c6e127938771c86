package hostnet

import (
	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"github.com/portolan-net/portolan/internal/portolan"
)

const tableName = "portolan-hostnet"

// priority is before the engine's own output chain, at the usual one of
// destination NAT, -100.
const priority = -150

// installTable replaces the table of the package's comment, in one transaction.
func installTable(led map[service]uint16) error {
	conn, table, err := freshTable()
	if err != nil {
		return err
	}
	hook := nftables.ChainPriority(priority)
	table = conn.AddTable(table)
	chain := conn.AddChain(&nftables.Chain{
		Name: "output", Table: table, Type: nftables.ChainTypeNAT, Hooknum: nftables.ChainHookOutput, Priority: &hook,
	})
	for _, kind := range []struct {
		name  string
		proto portolan.Proto
		six   bool
	}{
		{"tcp4", portolan.TCP, false}, {"tcp6", portolan.TCP, true}, {"udp4", portolan.UDP, false}, {"udp6", portolan.UDP, true},
	} {
		ports := &nftables.Set{Table: table, Name: kind.name, IsMap: true, KeyType: nftables.TypeInetService, DataType: nftables.TypeInetService}
		var elements []nftables.SetElement
		for s, port := range led {
			if s.proto == kind.proto && s.six == kind.six {
				elements = append(elements, nftables.SetElement{Key: binaryutil.BigEndian.PutUint16(s.port), Val: binaryutil.BigEndian.PutUint16(port)})
			}
		}
		if err := conn.AddSet(ports, elements); err != nil {
			return err
		}
		conn.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: leadTo(service{proto: kind.proto, six: kind.six}, ports)})
	}
	return conn.Flush()
}

// removeTable takes it away again.
func removeTable() error {
	conn, _, err := freshTable()
	if err != nil {
		return err
	}
	return conn.Flush()
}

// freshTable begins a transaction in which no table of ours is left.
func freshTable() (*nftables.Conn, *nftables.Table, error) {
	conn, err := nftables.New()
	if err != nil {
		return nil, nil, err
	}
	table := &nftables.Table{Name: tableName, Family: nftables.TableFamilyINet}
	conn.AddTable(table) // so that the next line succeeds when there is none
	conn.DelTable(table)
	return conn, table, nil
}

// leadTo is "oifname lo ip daddr 127.0.0.1 meta l4proto tcp redirect to :th dport
// map @ports", or the same of another family and protocol.
func leadTo(s service, ports *nftables.Set) []expr.Any {
	const reg = 1
	family, offset := byte(unix.NFPROTO_IPV4), uint32(16) // of the destination in the header
	if s.six {
		family, offset = unix.NFPROTO_IPV6, 24
	}
	loopback := s.loopback().AsSlice()
	name := make([]byte, unix.IFNAMSIZ)
	copy(name, "lo")
	equal := func(data []byte) expr.Any { return &expr.Cmp{Op: expr.CmpOpEq, Register: reg, Data: data} }
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyNFPROTO, Register: reg}, equal([]byte{family}),
		&expr.Meta{Key: expr.MetaKeyOIFNAME, Register: reg}, equal(name),
		&expr.Payload{Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: uint32(len(loopback)), DestRegister: reg}, equal(loopback),
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: reg}, equal([]byte{byte(s.proto)}),
		&expr.Payload{Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2, DestRegister: reg},
		&expr.Lookup{SourceRegister: reg, DestRegister: reg, IsDestRegSet: true, SetName: ports.Name, SetID: ports.ID},
		&expr.Redir{RegisterProtoMin: reg},
	}
}
