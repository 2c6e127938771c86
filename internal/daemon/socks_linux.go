package daemon

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/portolan-net/portolan/internal/datapath"
	"github.com/portolan-net/portolan/internal/portolan"
	"github.com/portolan-net/portolan/internal/proxy/socks"
	"github.com/portolan-net/portolan/internal/settings"
)

// socksServer leads programs of the host to containers.
type socksServer struct {
	addr   func() netip.AddrPort // where it should be; not valid for nowhere
	moved  <-chan struct{}       // addr has changed
	at     atomic.Pointer[netip.AddrPort]
	ports  socks.Ports // of its clients' datagrams
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
	at := s.at.Load()
	listens := flow.Proto == portolan.TCP && at != nil && at.IsValid() && flow.Dst.Port() == at.Port()
	if listens || flow.Proto == portolan.UDP && s.ports.Has(flow.Dst.Port()) {
		return fmt.Errorf("the SOCKS server is for the host: %w", syscall.ECONNREFUSED)
	}
	return nil
}

// moveSOCKS lets the server follow the setting.
func (d *daemon) moveSOCKS(before *settings.Values) {
	if before == nil || before.SOCKS == d.values.Load().SOCKS {
		return
	}
	select {
	case d.socksMoved <- struct{}{}:
	default: // it is about to look
	}
}

// run serves where the setting says until ctx ends. When that changes, who is
// connected is cut off.
func (s *socksServer) run(ctx context.Context) {
	for ctx.Err() == nil {
		addr := s.addr()
		s.at.Store(&addr)
		here, leave := context.WithCancel(ctx)
		left := make(chan struct{})
		go func() {
			defer close(left)
			s.keep(here, addr)
		}()
		select {
		case <-ctx.Done():
		case <-s.moved:
		}
		leave()
		<-left
	}
}

// keep serves in one place until ctx ends. A port that somebody else has is tried
// again.
func (s *socksServer) keep(ctx context.Context, addr netip.AddrPort) {
	if !addr.IsValid() {
		return
	}
	const pause = 5 * time.Second
	for said := false; ctx.Err() == nil; said = true {
		err := s.serve(ctx, addr)
		if err != nil && !said {
			s.config.Log.Warn("no SOCKS server for the host", "addr", addr, "error", err)
		}
		select {
		case <-ctx.Done():
		case <-time.After(pause):
		}
	}
}

func (s *socksServer) serve(ctx context.Context, addr netip.AddrPort) error {
	var lc net.ListenConfig
	lc.SetMultipathTCP(false)
	ln, err := lc.Listen(ctx, "tcp", addr.String())
	if err != nil {
		return err
	}
	s.config.Log.Info("SOCKS server for the host", "addr", addr)
	return socks.Serve(ctx, ln, s.config)
}
