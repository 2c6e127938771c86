package server

import (
	"context"
	"log/slog"
	"net"
	"net/netip"
	"time"

	"github.com/portolan-net/portolan/internal/datapath"
	"github.com/portolan-net/portolan/internal/portolan"
	"github.com/portolan-net/portolan/internal/proxy"
	"github.com/portolan-net/portolan/internal/proxy/entry"
	"github.com/portolan-net/portolan/internal/system"
)

// reachTimeout bounds the way to a destination, all routes and addresses
// together: within it the client gets a connection or an error.
const reachTimeout = 28 * time.Second

// Policies are the two in force: proxy.Source has them.
type Policies interface {
	Engine() *proxy.Policy
	Containers() *proxy.Policy
}

// Config is what New needs. All of it is required but Ports.
type Config struct {
	Link     portolan.Link
	Policies Policies
	// Dial connects to dst on behalf of src, an address of the machine, as if
	// that did it: egress.DialTCP.
	Dial func(ctx context.Context, src netip.Addr, dst netip.AddrPort) (datapath.Conn, error)
	// Lookup returns the addresses of a name as a container sees them.
	Lookup func(ctx context.Context, name string) ([]netip.Addr, error)
	// Networks returns the engine's subnets.
	Networks func() []netip.Prefix
	// TransparentPorts are the ports that go through the containers' proxy
	// unasked; asked for each connection.
	TransparentPorts func() entry.Ports
	// Ports chooses the host's ports of connections to proxies; nil leaves it to
	// the kernel.
	Ports *system.Outgoing
	Log   *slog.Logger
}

// Server is egress.Proxies.
type Server struct {
	cfg    Config
	proxy  proxy.Dialer  // dials to proxies
	reach  time.Duration // reachTimeout
	answer time.Duration // answerTimeout
}

// New returns a server that is ready. It has nothing to close: each of its
// connections ends with the context it was served with.
func New(cfg Config) *Server {
	s := &Server{cfg: cfg, reach: reachTimeout, answer: answerTimeout}
	s.proxy.Direct = s.dialHost
	return s
}

// dialHost dials as the host does, plain TCP so that it can be spliced.
func (s *Server) dialHost(ctx context.Context, network, address string) (net.Conn, error) {
	d := net.Dialer{Control: s.cfg.Ports.Control}
	d.SetMultipathTCP(false)
	return d.DialContext(ctx, network, address)
}

// client is whoever sends to us.
type client struct {
	server *Server
	addr   netip.Addr
}

// policy is the one that counts for the client, and the name of its settings.
func (c client) policy() (*proxy.Policy, string) {
	if c.server.cfg.Link.Machine().Has(c.addr) {
		return c.server.cfg.Policies.Engine(), "proxy"
	}
	return c.server.cfg.Policies.Containers(), "containersProxy"
}

// inNetworks reports addresses of containers.
func (s *Server) inNetworks(addr netip.Addr) bool {
	if s.cfg.Link.Contains(addr) {
		return false
	}
	for _, network := range s.cfg.Networks() {
		if network.Contains(addr) {
			return true
		}
	}
	return false
}
