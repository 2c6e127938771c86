package relay

import (
	"net/netip"
	"testing"
)

// askFrom sends from a source and waits for the answer.
func askFrom(t *testing.T, tab *table, from netip.AddrPort, server *echoServer) {
	t.Helper()
	tab.send(t, from, server.addr, []byte("x"))
	if got := next(t, tab.replies); got.source != from {
		t.Fatalf("the reply to %s went to %s", from, got.source)
	}
}

func (tab *table) holds(from netip.AddrPort) bool {
	tab.mu.Lock()
	defer tab.mu.Unlock()
	_, there := tab.table[udpKey{source: from}]
	return there
}

// Fifty thousand questions in a row, each from a port of its own, leave no
// descriptor behind, and another container's association stays.
func TestUDPManyShortAssociations(t *testing.T) {
	noLeaks(t)
	const bound = 2000
	tab := newTable(t, UDPConfig{Max: bound})
	server := newEchoServer(t, "127.0.0.1")
	askFrom(t, tab, source(1), server)
	busy := source(2).Addr()
	for n := range 50_000 {
		askFrom(t, tab, netip.AddrPortFrom(busy, uint16(n+1)), server)
	}
	if got, most := tab.Len(), bound/sourcePart+1; got > most {
		t.Errorf("%d associations are left, want at most %d", got, most)
	}
	if !tab.holds(source(1)) {
		t.Error("the other container's association has gone")
	}
}

// The containers of a network, whatever addresses they use, share half of the
// table; then they lose their own associations.
func TestUDPNetworkHasAShare(t *testing.T) {
	noLeaks(t)
	const bound = 40
	flood := netip.MustParsePrefix("172.18.0.0/16")
	tab := newTable(t, UDPConfig{Max: bound, Network: func(addr netip.Addr) netip.Prefix {
		if flood.Contains(addr) {
			return flood
		}
		return netip.Prefix{}
	}})
	server := newEchoServer(t, "127.0.0.1")
	for n := range bound / 2 {
		askFrom(t, tab, source(n), server)
	}
	forged := func(n int) netip.AddrPort {
		return netip.AddrPortFrom(netip.AddrFrom4([4]byte{172, 18, byte(n >> 8), byte(n)}), 5000)
	}
	for n := range 5 * bound {
		askFrom(t, tab, forged(n), server)
	}
	for n := range bound / 2 {
		if !tab.holds(source(n)) {
			t.Errorf("the association of %s has gone", source(n))
		}
	}
	if last := forged(5*bound - 1); !tab.holds(last) || tab.Len() != bound {
		t.Errorf("%d associations, of %s: %v; want %d and it among them", tab.Len(), last, tab.holds(last), bound)
	}
	tab.mu.Lock()
	defer tab.mu.Unlock()
	if n := len(tab.shares); n != bound+1 {
		t.Errorf("%d shares are kept for %d sources and a network", n, bound)
	}
}

// Associations that remember thousands of peers leave others their part.
func TestUDPPeersAreBoundedInAll(t *testing.T) {
	u := &UDP{table: map[udpKey]*association{}}
	const greedy = 32
	for n := range greedy {
		a := &association{}
		u.table[udpKey{source: source(n)}] = a
		for i := range 2 * maxPeers {
			u.rememberLocked(a, source(i).Addr())
		}
	}
	modest := &association{}
	u.table[udpKey{source: source(greedy)}] = modest
	for i := range 100 {
		u.rememberLocked(modest, source(i).Addr())
	}
	if len(modest.peers) != 100 {
		t.Errorf("an association below its part remembers %d of 100 peers", len(modest.peers))
	}
	sum := 0
	for _, a := range u.table {
		sum += len(a.peers)
	}
	if sum != u.peers || sum > 2*maxAllPeers {
		t.Errorf("%d peers are remembered and %d counted, want at most %d", sum, u.peers, 2*maxAllPeers)
	}
}
