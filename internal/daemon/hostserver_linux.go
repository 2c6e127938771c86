package daemon

import (
	"context"
	"log/slog"
	"net/netip"
	"sync/atomic"
	"time"

	"github.com/portolan-net/portolan/internal/settings"
)

// hostServer serves programs of the host where a setting says, and follows it.
type hostServer struct {
	what  string                // for the log
	addr  func() netip.AddrPort // where it should be; not valid for nowhere
	moved <-chan struct{}       // addr has changed
	serve func(ctx context.Context, addr netip.AddrPort) error
	log   *slog.Logger

	at atomic.Pointer[netip.AddrPort]
}

// isAt reports whether it is on a port of the host's.
func (s *hostServer) isAt(port uint16) bool {
	at := s.at.Load()
	return at != nil && at.IsValid() && at.Port() == port
}

// run serves where the setting says until ctx ends. When that changes, who is
// connected is cut off.
func (s *hostServer) run(ctx context.Context) {
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

// keep serves in one place until ctx ends. A port that somebody else has, another
// profile for one, is tried again.
func (s *hostServer) keep(ctx context.Context, addr netip.AddrPort) {
	if !addr.IsValid() {
		return
	}
	const pause = 5 * time.Second
	for said := false; ctx.Err() == nil; said = true {
		err := s.serve(ctx, addr)
		if err != nil && !said {
			s.log.Warn("the host is not served", "what", s.what, "addr", addr, "err", err)
		}
		select {
		case <-ctx.Done():
		case <-time.After(pause):
		}
	}
}

// moveServers lets the servers of the host follow the settings.
func (d *daemon) moveServers(before *settings.Values) {
	if before == nil {
		return
	}
	now := d.values.Load()
	tell := func(moved chan struct{}, from, to netip.AddrPort) {
		if from == to {
			return
		}
		select {
		case moved <- struct{}{}:
		default: // it is about to look
		}
	}
	tell(d.socksMoved, before.SOCKS, now.SOCKS)
	tell(d.hostNamesMoved, before.HostNames, now.HostNames)
}
