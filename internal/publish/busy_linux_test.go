package publish

import (
	"net"
	"net/netip"
	"slices"
	"testing"

	"github.com/portolan-net/portolan/internal/portolan"
	"github.com/portolan-net/portolan/internal/system"
)

// What others hold is busy; what the table holds, what has ended and what only
// has connections that are in nobody's way is not.
func TestBusy(t *testing.T) {
	table, _ := newTable(t, nil)
	all := system.PortRange{First: 1024, Last: 65535}
	busy := func(r system.PortRange) []portolan.Port {
		t.Helper()
		ports, err := table.Busy(r)
		must(t, err)
		return ports
	}
	own := freePort(t, "tcp", "127.0.0.1")
	must(t, table.Publish(t.Context(), tcp(own, netip.MustParseAddrPort("172.17.0.2:80"))))
	wide, err := net.Listen("tcp", "[::]:0") // both families
	must(t, err)
	defer wide.Close()
	udp, err := net.ListenPacket("udp4", "127.0.0.1:0")
	must(t, err)
	port := netip.MustParseAddrPort(udp.LocalAddr().String())
	width := netip.MustParseAddrPort(wide.Addr().String()).Port()
	held := []portolan.Port{
		{Proto: portolan.UDP, Host: port},
		{Proto: portolan.TCP, Host: netip.AddrPortFrom(netip.IPv6Unspecified(), width)},
		{Proto: portolan.TCP, Host: netip.AddrPortFrom(netip.IPv4Unspecified(), width)},
	}
	found := busy(all)
	for _, p := range held {
		if !slices.Contains(found, p) {
			t.Errorf("%s is not busy: %v", p, found)
		}
	}
	if slices.Contains(found, portolan.Port{Proto: portolan.TCP, Host: own}) {
		t.Errorf("the table's own %s is busy", own)
	}
	if found := busy(system.PortRange{First: port.Port(), Last: port.Port()}); !slices.Contains(found, held[0]) || slices.Contains(found, held[1]) {
		t.Errorf("in a range of one port: %v", found)
	}
	must(t, udp.Close())
	if found := busy(all); slices.Contains(found, held[0]) {
		t.Errorf("%s is busy when it is closed", held[0])
	}
	// An accepted connection outlives its listener and keeps no other from its port.
	client, err := net.Dial("tcp", netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), width).String())
	must(t, err)
	defer client.Close()
	accepted, err := wide.Accept()
	must(t, err)
	defer accepted.Close()
	must(t, wide.Close())
	if found := busy(system.PortRange{First: width, Last: width}); len(found) > 0 {
		t.Errorf("an accepted connection makes %v busy", found)
	}
}
