package daemon

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"syscall"

	"github.com/portolan-net/portolan/internal/datapath"
	"github.com/portolan-net/portolan/internal/portolan"
	"github.com/portolan-net/portolan/internal/proxy/socks"
)

// newSOCKS returns a server that join makes ready.
func (d *daemon) newSOCKS() *socksServer {
	s := &socksServer{}
	s.hostServer = hostServer{
		what: "SOCKS server", addr: func() netip.AddrPort { return d.values.Load().SOCKS }, moved: d.socksMoved,
		serve: s.listen, log: d.Log.With("part", "socks"),
	}
	return s
}

// socksServer leads programs of the host to containers.
type socksServer struct {
	hostServer
	ports  socks.Ports // of its clients' datagrams
	config socks.Config
}

// join gives it what it leads by; it comes before run.
func (s *socksServer) join(d *daemon, machine datapath.Machine, link *agentSide, names *hostNames) {
	// The machine shows containers the gateway of their network in place of this one.
	from := d.link().Gateway()
	s.config = socks.Config{
		Dial: func(ctx context.Context, dst netip.AddrPort) (datapath.Conn, error) {
			return machine.DialTCP(ctx, from.For(dst.Addr()), dst)
		},
		DialUDP: func(ctx context.Context, dst netip.AddrPort) (net.Conn, error) {
			return machine.DialUDP(ctx, netip.AddrPortFrom(from.For(dst.Addr()), 0), dst)
		},
		Lookup: names.zone.Addrs, Allowed: func(addr netip.Addr) bool { return link.hasContainer(addr) },
		Ports: &s.ports, Log: d.Log.With("part", "socks"),
	}
}

// hasContainer reports addresses that a container may have.
func (a *agentSide) hasContainer(addr netip.Addr) bool {
	if addr.IsLoopback() || addr.IsLinkLocalUnicast() || a.daemon.link().Contains(addr) {
		return false
	}
	return slices.ContainsFunc(a.networks(), func(network netip.Prefix) bool { return network.Contains(addr) })
}

// allow keeps containers away from the server: it would lead them to each other.
// To them nobody listens there.
func (s *socksServer) allow(flow portolan.Flow) error {
	if flow.Proto == portolan.TCP && s.isAt(flow.Dst.Port()) || flow.Proto == portolan.UDP && s.ports.Has(flow.Dst.Port()) {
		return fmt.Errorf("the SOCKS server is for the host: %w", syscall.ECONNREFUSED)
	}
	return nil
}

func (s *socksServer) listen(ctx context.Context, addr netip.AddrPort) error {
	var lc net.ListenConfig
	lc.SetMultipathTCP(false)
	ln, err := lc.Listen(ctx, "tcp", addr.String())
	if err != nil {
		return err
	}
	s.config.Log.Info("SOCKS server for the host", "addr", addr)
	return socks.Serve(ctx, ln, s.config)
}
