package lab

import (
	"net"
	"net/http"
	"net/netip"
	"slices"
	"sync"
	"testing"
)

// Server is one of the lab's servers: goroutines of the test process that serve
// sockets of a node until the test that started it ends.
type Server struct {
	Addr netip.AddrPort // where it listens

	mu      sync.Mutex
	clients []netip.AddrPort  // guarded by mu
	open    map[net.Conn]bool // guarded by mu; nil once stopped
	wg      sync.WaitGroup
}

// Clients lists who connected or sent a datagram, in order, each as often as
// it did.
func (s *Server) Clients() []netip.AddrPort {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.clients)
}

// Forget empties the list of clients.
func (s *Server) Forget() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.clients = nil
}

func (s *Server) saw(addr net.Addr) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.clients = append(s.clients, addrPort(addr))
}

// addrPort turns a TCP or UDP address into its unmapped netip form.
func addrPort(addr net.Addr) netip.AddrPort {
	a, ok := addr.(interface{ AddrPort() netip.AddrPort })
	if !ok {
		return netip.AddrPort{}
	}
	ap := a.AddrPort()
	return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
}

// Services are the servers of StartInternet, IPv4 first.
type Services struct {
	Web     [2]*Server // port 80 of WebV4, WebV6
	TCPEcho [2]*Server // port 7
	UDPEcho [2]*Server // port 7
	DNS     [2]*DNS    // port 53 of DNSV4, DNSV6, zone internet.test
	DNS2    [2]*DNS    // of DNS2V4, DNS2V6
}

// StartInternet starts the standard servers on the node Internet.
func (l *Lab) StartInternet(t testing.TB) *Services {
	t.Helper()
	s := &Services{}
	for i, web := range []string{WebV4, WebV6} {
		s.Web[i] = l.StartWeb(t, l.Internet, net.JoinHostPort(web, "80"))
		s.TCPEcho[i] = l.StartTCPEcho(t, l.Internet, net.JoinHostPort(web, "7"))
		s.UDPEcho[i] = l.StartUDPEcho(t, l.Internet, net.JoinHostPort(web, "7"))
	}
	for i, addr := range []string{DNSV4, DNSV6} {
		s.DNS[i] = l.StartDNS(t, l.Internet, net.JoinHostPort(addr, "53"))
	}
	for i, addr := range []string{DNS2V4, DNS2V6} {
		s.DNS2[i] = l.StartDNS(t, l.Internet, net.JoinHostPort(addr, "53"))
	}
	return s
}

// listen makes a server's TCP socket, or ends the test.
func listen(t testing.TB, node *Node, addr string) net.Listener {
	t.Helper()
	ln, err := node.Listen("tcp", addr)
	if err != nil {
		t.Fatalf("listen on tcp %s of %s: %v", addr, node.Name, err)
	}
	return ln
}

// listenPacket makes a server's UDP socket, or ends the test.
func listenPacket(t testing.TB, node *Node, addr string) net.PacketConn {
	t.Helper()
	pc, err := node.ListenPacket("udp", addr)
	if err != nil {
		t.Fatalf("listen on udp %s of %s: %v", addr, node.Name, err)
	}
	return pc
}

// waitingHandler counts requests, since http.Server.Close leaves handlers
// running.
type waitingHandler struct {
	next http.Handler
	wg   sync.WaitGroup
}

func (h *waitingHandler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h.wg.Add(1)
	defer h.wg.Done()
	h.next.ServeHTTP(w, r)
}
