package publish

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"syscall"

	"github.com/portolan-net/portolan/internal/datapath"
	"github.com/portolan-net/portolan/internal/portolan"
	"github.com/portolan-net/portolan/internal/publish/forward"
	"github.com/portolan-net/portolan/internal/relay"
)

// errTaken is what a taken port's error wraps.
const errTaken = syscall.EADDRINUSE

// opener makes the host's sockets. With away the host need not have the address.
type opener struct {
	tcp func(ctx context.Context, addr netip.AddrPort, away bool) (*net.TCPListener, error)
	udp func(ctx context.Context, addr netip.AddrPort, away bool) (*net.UDPConn, error)
}

// systemOpener asks the kernel. Naming the family keeps an IPv6 socket from
// taking IPv4 too (IPV6_V6ONLY); Go sets SO_REUSEADDR on TCP listeners, so that a
// port whose connections are in TIME_WAIT can be published again.
var systemOpener = opener{
	tcp: func(ctx context.Context, addr netip.AddrPort, away bool) (*net.TCPListener, error) {
		lc := listenConfig(away)
		lc.SetMultipathTCP(false) // the relay splices plain TCP
		l, err := lc.Listen(ctx, "tcp"+family(addr), addr.String())
		if err != nil {
			return nil, err
		}
		return l.(*net.TCPListener), nil
	},
	udp: func(ctx context.Context, addr netip.AddrPort, away bool) (*net.UDPConn, error) {
		lc := listenConfig(away)
		c, err := lc.ListenPacket(ctx, "udp"+family(addr), addr.String())
		if err != nil {
			return nil, err
		}
		return c.(*net.UDPConn), nil
	},
}

func listenConfig(away bool) (lc net.ListenConfig) {
	if away {
		lc.Control = bindAnywhere
	}
	return lc
}

func family(addr netip.AddrPort) string {
	if addr.Addr().Is4() {
		return "4"
	}
	return "6"
}

// listen makes the listener of e and starts to serve it. The connections outlive
// the caller's ctx, not the table.
func (t *Table) listen(ctx context.Context, e *entry) error {
	serve, err := t.socket(ctx, e)
	if noIPv6(e.binding, err) {
		e.problem = listenError(e.binding, err).Error() + "; the host has no IPv6"
		t.cfg.Log.Info("published port has no listener: the host has no IPv6", "binding", e.binding)
		return nil
	}
	if err != nil {
		return listenError(e.binding, err)
	}
	ctx, end := context.WithCancel(context.WithoutCancel(ctx))
	t.running[e] = end
	t.serving.Go(func() {
		defer t.ended(e, end)
		if err := serve(ctx); err != nil {
			t.cfg.Log.Error("published port fails", "binding", e.binding, "error", err)
		}
	})
	return nil
}

// ended forgets what was served.
func (t *Table) ended(e *entry, end context.CancelFunc) {
	end()
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.running, e)
}

// socket opens the host's socket of e and returns how to serve it.
func (t *Table) socket(ctx context.Context, e *entry) (func(context.Context) error, error) {
	e.listens = t.cfg.ListenOn(e.binding.Host.Addr())
	host := netip.AddrPortFrom(e.listens, e.binding.Host.Port())
	away := e.stood && !e.listens.IsLoopback() // that is away only where the host lacks the family
	if e.binding.Proto == portolan.TCP {
		l, err := t.open.tcp(ctx, host, away)
		if err != nil {
			return nil, err
		}
		server := &forward.TCP{Listener: l, Log: t.cfg.Log, Dial: t.dialTCP(e), Relay: t.relay(e), Places: t.cfg.Connections}
		e.listener = server
		return server.Serve, nil
	}
	c, err := t.open.udp(ctx, host, away)
	if err != nil {
		return nil, err
	}
	e.udp = &forward.UDP{
		Conn: c, Log: t.cfg.Log, Dial: t.dialUDP(e),
		Idle: t.cfg.UDPIdle, MaxSessions: t.cfg.UDPSessions, Places: t.cfg.Sessions, Offload: t.cfg.Offload,
	}
	e.listener = e.udp
	return e.udp.Serve, nil
}

func (t *Table) dialTCP(e *entry) forward.DialFunc {
	dialer, ok := t.cfg.Machine.(datapath.Dialer)
	if !ok {
		return forward.Waiting(func(ctx context.Context, client netip.AddrPort) (datapath.Conn, error) {
			container := *e.container.Load()
			return t.cfg.Machine.DialTCP(ctx, t.source(client.Addr(), container.Addr()), container)
		})
	}
	return func(ctx context.Context, client netip.AddrPort, done func(datapath.Conn, error)) {
		container := *e.container.Load()
		dialer.StartDial(ctx, t.source(client.Addr(), container.Addr()), container, done)
	}
}

func (t *Table) dialUDP(e *entry) func(context.Context, netip.AddrPort) (net.Conn, error) {
	return func(ctx context.Context, client netip.AddrPort) (net.Conn, error) {
		container := *e.container.Load()
		src := t.source(client.Addr(), container.Addr())
		port := client.Port()
		if src != client.Addr() {
			port = 0 // clients that share the substitute would collide
		}
		return t.cfg.Machine.DialUDP(ctx, netip.AddrPortFrom(src, port), container)
	}
}

func (t *Table) source(client, container netip.Addr) netip.Addr {
	return source(client, container, surroundings{
		link: t.cfg.Link, host: t.cfg.HostAddrs(), networks: t.cfg.Networks(),
	})
}

func (t *Table) relay(e *entry) forward.RelayFunc {
	return func(ctx context.Context, client, container datapath.Conn, done func()) {
		if !t.mayIntroduce(e) {
			t.carry(ctx, e, client, container, done)
			return
		}
		go func() {
			if err := t.introduce(ctx, e, client, container); err != nil {
				t.cfg.Log.Debug("PROXY header is not sent", "binding", e.binding, "error", err)
				datapath.Reset(client)
				datapath.Reset(container)
				done()
				return
			}
			t.carry(ctx, e, client, container, done)
		}()
	}
}

// carry relays what e counts. It does not wait.
func (t *Table) carry(ctx context.Context, e *entry, client, container datapath.Conn, done func()) {
	e.conns.add(container, client)
	t.cfg.Relay(ctx, client, container, func(stats relay.Stats) {
		e.conns.remove(container, stats)
		done()
	})
}

// noIPv6 reports whether err only says that the host has no IPv6, for a binding
// that the user did not ask for by address: `-p 80:80` means both families.
func noIPv6(b portolan.Binding, err error) bool {
	return b.Host.Addr().Is6() && b.Host.Addr().IsUnspecified() &&
		(errors.Is(err, syscall.EAFNOSUPPORT) || errors.Is(err, syscall.EPROTONOSUPPORT))
}

// place names the port as the engine does: "0.0.0.0:80/tcp".
func place(b portolan.Binding) string { return fmt.Sprintf("%s/%s", b.Host, b.Proto) }

// taken is the error of a port that a binding of ours holds.
func taken(b portolan.Binding) error { return listenError(b, errTaken) }

// listenError reports a failed listen in one short line, with what to do.
func listenError(b portolan.Binding, err error) error {
	cause := err
	if number, ok := errors.AsType[syscall.Errno](err); ok {
		cause = number // without Go's repetition of operation and address
	}
	switch {
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		return fmt.Errorf("listen on %s: %w: %s is no address of the host", place(b), cause, b.Host.Addr())
	case errors.Is(err, os.ErrPermission) && b.Host.Port() < 1024:
		return fmt.Errorf("listen on %s: %w: the host keeps low ports for root; publish another port, such as -p %d:..., or as root, type: sysctl -w net.ipv4.ip_unprivileged_port_start=%d",
			place(b), cause, 8000+b.Host.Port(), b.Host.Port())
	}
	return fmt.Errorf("listen on %s: %w", place(b), cause)
}
