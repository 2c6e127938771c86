package relay

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/portolan-net/portolan/internal/datapath"
)

// datagram is one event that a UDP table reported.
type datagram struct {
	source, peer netip.AddrPort
	payload      []byte
	reason       error
}

// table is a UDP table whose events arrive in channels.
type table struct {
	*UDP
	replies, refusals chan datagram
}

func newTable(t *testing.T, cfg UDPConfig) *table {
	t.Helper()
	const room = 1000
	tab := &table{replies: make(chan datagram, room), refusals: make(chan datagram, room)}
	cfg.Reply = func(source, peer netip.AddrPort, payloads ...[]byte) {
		for _, payload := range payloads {
			tab.replies <- datagram{source, peer, bytes.Clone(payload), nil}
		}
	}
	cfg.Refused = func(source, peer netip.AddrPort, payload []byte, reason error) {
		tab.refusals <- datagram{source, peer, bytes.Clone(payload), reason}
	}
	tab.UDP = NewUDP(cfg)
	t.Cleanup(func() {
		if err := tab.Close(); err != nil {
			t.Error(err)
		}
	})
	return tab
}

// next returns the next event of a channel.
func next(t *testing.T, events chan datagram) datagram {
	t.Helper()
	select {
	case d := <-events:
		return d
	case <-time.After(5 * time.Second):
		t.Fatal("nothing arrived within 5 s")
		return datagram{}
	}
}

// echoServer sends every datagram back, and tells who sent the last one.
type echoServer struct {
	conn *net.UDPConn
	addr netip.AddrPort

	mu     sync.Mutex
	client netip.AddrPort // guarded by mu
}

func newEchoServer(t *testing.T, addr string) *echoServer {
	t.Helper()
	conn, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(netip.MustParseAddr(addr), 0)))
	if err != nil {
		t.Fatal(err)
	}
	s := &echoServer{conn: conn, addr: conn.LocalAddr().(*net.UDPAddr).AddrPort()}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for buf := make([]byte, 1<<16); ; {
			n, from, err := conn.ReadFromUDPAddrPort(buf)
			if err != nil {
				return
			}
			s.mu.Lock()
			s.client = from
			s.mu.Unlock()
			_, _ = conn.WriteToUDPAddrPort(buf[:n], from)
		}
	}()
	t.Cleanup(func() {
		_ = conn.Close()
		<-ended
	})
	return s
}

func (s *echoServer) lastClient() netip.AddrPort {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.client
}

// source returns the n-th container address and port.
func source(n int) netip.AddrPort {
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte{172, 17, byte(n >> 8), byte(n)}), 5000)
}

// send fails the test on an error.
func (tab *table) send(t *testing.T, from, to netip.AddrPort, payload []byte) {
	t.Helper()
	if err := tab.Send(from, to, payload); err != nil {
		t.Fatal(err)
	}
}

func TestUDPSizes(t *testing.T) {
	noLeaks(t)
	tab := newTable(t, UDPConfig{})
	for _, addr := range []string{"127.0.0.1", "::1"} {
		server := newEchoServer(t, addr)
		for _, size := range []int{0, 1, 1400, 9000, 65507} {
			payload := bytes.Repeat([]byte{byte(size)}, size)
			tab.send(t, source(1), server.addr, payload)
			if got := next(t, tab.replies); got.source != source(1) || got.peer != server.addr || !bytes.Equal(got.payload, payload) {
				t.Errorf("%s, %d bytes: %d bytes came from %s for %s", addr, size, len(got.payload), got.peer, got.source)
			}
		}
	}
}

func TestUDPMappingDoesNotDependOnThePeer(t *testing.T) {
	noLeaks(t)
	tab := newTable(t, UDPConfig{})
	one, two := newEchoServer(t, "127.0.0.1"), newEchoServer(t, "127.0.0.2")
	for _, server := range []*echoServer{one, two} {
		tab.send(t, source(1), server.addr, []byte("x"))
		next(t, tab.replies)
	}
	if one.lastClient() != two.lastClient() {
		t.Errorf("peers see %s and %s", one.lastClient(), two.lastClient())
	}
	tab.send(t, source(2), two.addr, []byte("x"))
	next(t, tab.replies)
	if one.lastClient() == two.lastClient() {
		t.Errorf("two sources share %s", one.lastClient())
	}
}

func TestUDPStrangersStayOutside(t *testing.T) {
	noLeaks(t)
	tab := newTable(t, UDPConfig{})
	server, stranger := newEchoServer(t, "127.0.0.1"), newEchoServer(t, "127.0.0.3")
	tab.send(t, source(1), server.addr, []byte("known"))
	next(t, tab.replies)
	write := func(from *echoServer, text string) {
		if _, err := from.conn.WriteToUDPAddrPort([]byte(text), server.lastClient()); err != nil {
			t.Fatal(err)
		}
	}
	write(stranger, "from a stranger")
	write(server, "from a friend") // crosses behind it
	if got := next(t, tab.replies); string(got.payload) != "from a friend" {
		t.Errorf("%q passed from %s", got.payload, got.peer)
	}
}

// One socket speaks to a server and to ports that nobody serves, in turn. Each
// refusal must find its datagram, and the server must not suffer.
// Two sources that both speak to the host's loopback do not reach each other, or
// themselves, through it.
func TestUDPLoopbackLeadsToNoAssociation(t *testing.T) {
	noLeaks(t)
	tab := newTable(t, UDPConfig{Max: 2})
	server := newEchoServer(t, "127.0.0.1")
	var ports [2]uint16
	for i := range ports {
		tab.send(t, source(i+1), server.addr, []byte("known"))
		next(t, tab.replies)
		ports[i] = server.lastClient().Port()
	}
	for _, addr := range []string{"127.0.0.1", "127.0.0.3"} {
		for _, port := range ports {
			to := netip.AddrPortFrom(netip.MustParseAddr(addr), port)
			if err := tab.Send(source(1), to, []byte("hairpin")); !errors.Is(err, syscall.ECONNREFUSED) {
				t.Errorf("send to %s: %v, want it refused", to, err)
			}
		}
	}
	tab.send(t, source(1), server.addr, []byte("a friend's"))
	if got := next(t, tab.replies); string(got.payload) != "a friend's" {
		t.Errorf("%q passed from %s", got.payload, got.peer)
	}
	// A third source ends the second one's association: its port is free again.
	tab.send(t, source(1), server.addr, []byte("in use"))
	next(t, tab.replies)
	tab.send(t, source(3), server.addr, []byte("new"))
	next(t, tab.replies)
	free := netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), ports[1])
	if err := tab.Send(source(1), free, []byte("x")); errors.Is(err, syscall.ECONNREFUSED) && strings.Contains(err.Error(), "own socket") {
		t.Errorf("send to a port that was given back: %v", err)
	}
}

func TestUDPRefusalsFindTheirDatagram(t *testing.T) {
	for _, addr := range []string{"127.0.0.1", "::1"} {
		t.Run(addr, func(t *testing.T) {
			noLeaks(t)
			tab := newTable(t, UDPConfig{})
			server := newEchoServer(t, addr)
			want := map[netip.AddrPort]string{}
			for i, dead := range closedPorts(t, addr, 50) {
				want[dead] = fmt.Sprint("refused ", i)
				tab.send(t, source(1), dead, []byte(want[dead]))
				tab.send(t, source(1), server.addr, []byte("served"))
				if got := next(t, tab.replies); got.peer != server.addr {
					t.Fatalf("a reply from %s", got.peer)
				}
			}
			for len(want) > 0 {
				got := next(t, tab.refusals)
				if got.source != source(1) || string(got.payload) != want[got.peer] || !errors.Is(got.reason, syscall.ECONNREFUSED) {
					t.Fatalf("refused: %s > %s %q: %v", got.source, got.peer, got.payload, got.reason)
				}
				delete(want, got.peer)
			}
		})
	}
}

// closedPorts returns n different UDP addresses that nobody serves.
func closedPorts(t *testing.T, addr string, n int) []netip.AddrPort {
	t.Helper()
	var ports []netip.AddrPort
	for range n {
		conn, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(netip.MustParseAddr(addr), 0)))
		must(t, err)
		defer func() { _ = conn.Close() }() // not before all are chosen
		ports = append(ports, conn.LocalAddr().(*net.UDPAddr).AddrPort())
	}
	return ports
}

func TestUDPErrorsFromTheNetwork(t *testing.T) {
	noLeaks(t)
	enterNetwork(t)
	tab := newTable(t, UDPConfig{})
	for _, addr := range []string{nowhere4, nowhere6} {
		peer := netip.AddrPortFrom(netip.MustParseAddr(addr), 99)
		var got datagram
		if err := tab.Send(source(1), peer, []byte("lost")); err != nil {
			got = datagram{source(1), peer, []byte("lost"), err} // the kernel remembered
		} else {
			got = next(t, tab.refusals)
		}
		if got.peer != peer || string(got.payload) != "lost" || datapath.Classify(got.reason) != wantUnreachable(peer.Addr()) {
			t.Errorf("%s: %q: %v", got.peer, got.payload, got.reason)
		}
	}
}

// wantUnreachable is what a Linux router answers for an unreachable route: host
// unreachable in IPv4, no route in IPv6.
func wantUnreachable(to netip.Addr) datapath.Refusal {
	if to.Is4() {
		return datapath.HostUnreachable
	}
	return datapath.NetUnreachable
}

func TestUDPErrorsOfTheHost(t *testing.T) {
	noLeaks(t)
	enterNetwork(t)
	unshare(t) // into a network without any address or route
	tab := newTable(t, UDPConfig{})
	for _, addr := range []string{near4, near6} {
		err := tab.Send(source(1), netip.AddrPortFrom(netip.MustParseAddr(addr), 99), []byte("x"))
		if datapath.Classify(err) != datapath.NetUnreachable || err == nil {
			t.Errorf("%s: %v, want network unreachable", addr, err)
		}
	}
}

func TestUDPTenThousandAssociationsExpire(t *testing.T) {
	noLeaks(t)
	const many, idle = 10_000, time.Second
	tab := newTable(t, UDPConfig{Max: many, Idle: idle})
	server := newEchoServer(t, "127.0.0.1")
	for n := range many {
		tab.send(t, source(n), server.addr, []byte("x"))
		if got := next(t, tab.replies); got.source != source(n) {
			t.Fatalf("the reply to %s went to %s", source(n), got.source)
		}
	}
	if tab.Len() == 0 {
		t.Error("no association is left after the last datagram")
	}
	eventually(t, "all associations expire", func() bool { return tab.Len() == 0 })
	tab.send(t, source(1), server.addr, []byte("again"))
	next(t, tab.replies)
}

func TestUDPOldestIdleGoesFirst(t *testing.T) {
	noLeaks(t)
	tab := newTable(t, UDPConfig{Max: 3})
	server := newEchoServer(t, "127.0.0.1")
	for _, n := range []int{1, 2, 3, 1, 4} { // 2 has been idle longest when 4 comes
		tab.send(t, source(n), server.addr, []byte("x"))
		next(t, tab.replies)
	}
	for n, want := range map[int]bool{1: true, 2: false, 3: true, 4: true} {
		tab.mu.Lock()
		_, there := tab.table[udpKey{source: source(n)}]
		tab.mu.Unlock()
		if there != want {
			t.Errorf("association of source %d is there: %v, want %v", n, there, want)
		}
	}
}

func TestUDPStreamsLiveLonger(t *testing.T) {
	noLeaks(t)
	const idle = 200 * time.Millisecond
	tab := newTable(t, UDPConfig{Idle: idle, StreamIdle: time.Hour})
	server := newEchoServer(t, "127.0.0.1")
	for n := range 2 {
		tab.send(t, source(n), server.addr, []byte("x"))
		next(t, tab.replies)
	}
	tab.mu.Lock()
	tab.table[udpKey{source: source(1)}].began = time.Now().Add(-streamAfter)
	tab.mu.Unlock()
	for n := range 2 {
		tab.send(t, source(n), server.addr, []byte("x"))
		next(t, tab.replies)
	}
	eventually(t, "the fresh one expires", func() bool { return tab.Len() == 1 })
	time.Sleep(2 * idle)
	if tab.Len() != 1 {
		t.Error("the stream has expired, too")
	}
}

func TestUDPRemembersAtMostMaxPeers(t *testing.T) {
	u, a := &UDP{}, &association{}
	for i := range 2 * maxPeers {
		u.rememberLocked(a, source(i).Addr())
	}
	if len(a.peers) != maxPeers {
		t.Errorf("%d peers are remembered, want %d", len(a.peers), maxPeers)
	}
}

func TestUDPAfterClose(t *testing.T) {
	noLeaks(t)
	u := NewUDP(UDPConfig{})
	if err := errors.Join(u.Close(), u.Close()); err != nil {
		t.Fatal(err)
	}
	if err := u.Send(source(1), source(2), nil); !errors.Is(err, net.ErrClosed) {
		t.Errorf("send: %v, want that it is closed", err)
	}
}
