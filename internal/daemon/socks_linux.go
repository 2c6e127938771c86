package daemon

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"syscall"
	"time"

	"github.com/portolan-net/portolan/internal/datapath"
	"github.com/portolan-net/portolan/internal/portolan"
	"github.com/portolan-net/portolan/internal/proxy/socks"
)

// socksServer leads programs of the host to containers.
type socksServer struct {
	addr   netip.AddrPort // not valid for nowhere
	ports  socks.Ports    // of its clients' datagrams
	config socks.Config
}

// join gives it what it leads by; it comes before run.
func (s *socksServer) join(d *daemon, machine datapath.Machine, link *agentSide, names *hostNames) {
	s.config = socks.Config{
		// Without a source the containers see the host's address on the link.
		Dial: func(ctx context.Context, dst netip.AddrPort) (datapath.Conn, error) {
			return machine.DialTCP(ctx, netip.Addr{}, dst)
		},
		DialUDP: func(ctx context.Context, dst netip.AddrPort) (net.Conn, error) {
			return machine.DialUDP(ctx, netip.AddrPort{}, dst)
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
	listens := flow.Proto == portolan.TCP && s.addr.IsValid() && flow.Dst.Port() == s.addr.Port()
	if listens || flow.Proto == portolan.UDP && s.ports.Has(flow.Dst.Port()) {
		return fmt.Errorf("the SOCKS server is for the host: %w", syscall.ECONNREFUSED)
	}
	return nil
}

// run serves until ctx ends. A port that somebody else has is tried again.
func (s *socksServer) run(ctx context.Context) {
	if !s.addr.IsValid() {
		return
	}
	const pause = 5 * time.Second
	for said := false; ctx.Err() == nil; said = true {
		err := s.serve(ctx)
		if err != nil && !said {
			s.config.Log.Warn("no SOCKS server for the host", "addr", s.addr, "error", err)
		}
		select {
		case <-ctx.Done():
		case <-time.After(pause):
		}
	}
}

func (s *socksServer) serve(ctx context.Context) error {
	var lc net.ListenConfig
	lc.SetMultipathTCP(false)
	ln, err := lc.Listen(ctx, "tcp", s.addr.String())
	if err != nil {
		return err
	}
	s.config.Log.Info("SOCKS server for the host", "addr", s.addr)
	return socks.Serve(ctx, ln, s.config)
}
