package hostnet

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"net/netip"
	"sync"

	"github.com/portolan-net/portolan/internal/datapath"
	"github.com/portolan-net/portolan/internal/portolan"
	"github.com/portolan-net/portolan/internal/publish/forward"
	"github.com/portolan-net/portolan/internal/relay"
)

// service is a port of the host's loopback: 127.0.0.1's, or ::1's.
type service struct {
	proto portolan.Proto
	six   bool
	port  uint16
}

func (s service) loopback() netip.Addr {
	if s.six {
		return netip.IPv6Loopback()
	}
	return netip.AddrFrom4([4]byte{127, 0, 0, 1})
}

// redirect leads local programs of the machine to the host's services. One
// goroutine uses it.
type redirect struct {
	link portolan.Link
	log  *slog.Logger

	open map[service]*stand
	led  map[service]uint16 // what the kernel leads where
}

// stand is where a service's traffic is led to.
type stand struct {
	port    uint16
	socket  io.Closer
	end     context.CancelFunc
	serving sync.WaitGroup
}

func newRedirect(link portolan.Link, log *slog.Logger) *redirect {
	return &redirect{link: link, log: log, open: map[service]*stand{}, led: map[service]uint16{}}
}

func (r *redirect) install() error {
	if err := installTable(nil); err != nil {
		return fmt.Errorf("install table for the host's services: %w", err)
	}
	return nil
}

// set leads to the services of host, except those whose port somebody in the
// machine waits on.
func (r *redirect) set(ctx context.Context, host []portolan.Listener, machine []Socket) error {
	wanted := map[service]bool{}
	for _, l := range host {
		wanted[service{l.Proto, l.Addr.Addr().Is6(), l.Addr.Port()}] = true
	}
	for s, stand := range r.open {
		if !wanted[s] {
			stand.close()
			delete(r.open, s)
		}
	}
	for s := range wanted {
		if r.open[s] != nil {
			continue
		}
		stand, err := r.stand(ctx, s)
		if err != nil { // IPv6 is off in the machine, or descriptors ran out
			r.log.Debug("service of the host has no place in the machine", "port", s.port, "err", err)
			continue
		}
		r.open[s] = stand
	}
	led := make(map[service]uint16, len(r.open))
	for s, stand := range r.open {
		led[s] = stand.port
	}
	for _, socket := range machine {
		for _, taken := range socket.Listeners() {
			if addr := taken.Addr.Addr(); addr.IsUnspecified() || addr.IsLoopback() {
				delete(led, service{taken.Proto, addr.Is6(), taken.Addr.Port()})
			}
		}
	}
	if maps.Equal(led, r.led) {
		return nil
	}
	if err := installTable(led); err != nil {
		return fmt.Errorf("lead to the host's services: %w", err)
	}
	r.led = led
	return nil
}

// stand opens the socket of s and serves it: to the host's loopback, by the way
// that all containers have.
func (r *redirect) stand(ctx context.Context, s service) (*stand, error) {
	ctx, end := context.WithCancel(ctx)
	at := netip.AddrPortFrom(s.loopback(), 0)
	host := netip.AddrPortFrom(r.link.Host().For(at.Addr()), s.port)
	if s.proto == portolan.UDP {
		conn, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(at))
		if err != nil {
			end()
			return nil, err
		}
		server := &forward.UDP{Conn: conn, Log: r.log, Dial: func(ctx context.Context, _ netip.AddrPort) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "udp", host.String())
		}}
		return r.serve(ctx, &stand{port: localPort(conn.LocalAddr()), socket: server, end: end}, server.Serve), nil
	}
	var config net.ListenConfig
	config.SetMultipathTCP(false)
	listener, err := config.Listen(ctx, "tcp", at.String())
	if err != nil {
		end()
		return nil, err
	}
	dialer := net.Dialer{}
	dialer.SetMultipathTCP(false)
	server := &forward.TCP{
		Listener: listener.(*net.TCPListener), Log: r.log,
		Relay: func(ctx context.Context, client, service datapath.Conn, done func()) {
			relay.Start(ctx, client, service, func(relay.Stats) { done() })
		},
		Dial: forward.Waiting(func(ctx context.Context, _ netip.AddrPort) (datapath.Conn, error) {
			conn, err := dialer.DialContext(ctx, "tcp", host.String())
			if err != nil {
				return nil, err
			}
			return conn.(*net.TCPConn), nil
		}),
	}
	return r.serve(ctx, &stand{port: localPort(listener.Addr()), socket: server, end: end}, server.Serve), nil
}

func (r *redirect) serve(ctx context.Context, s *stand, serve func(context.Context) error) *stand {
	s.serving.Go(func() {
		if err := serve(ctx); err != nil {
			r.log.Warn("service of the host", "err", err)
		}
	})
	return s
}

// close ends the socket. A service that stopped listening may have connections
// still: they end with their ends, or with the agent.
func (s *stand) close() { _ = s.socket.Close() }

// close ends everything, connections too.
func (r *redirect) close() {
	for _, s := range r.open {
		s.end()
		s.serving.Wait()
	}
	if err := removeTable(); err != nil {
		r.log.Debug("remove table for the host's services", "err", err)
	}
}

func localPort(a net.Addr) uint16 {
	at, err := netip.ParseAddrPort(a.String())
	if err != nil {
		return 0
	}
	return at.Port()
}
