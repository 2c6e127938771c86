package shim

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/portolan-net/portolan/internal/datapath"
	"github.com/portolan-net/portolan/internal/portolan"
	"github.com/portolan-net/portolan/internal/publish/forward"
)

// local serves the socket that the engine bound in the machine.
type local struct {
	socket  io.Closer // nil without one
	cancel  context.CancelFunc
	serving sync.WaitGroup
}

// serveLocal starts to forward what arrives at file, which it closes, to the
// binding's container.
func serveLocal(ctx context.Context, file *os.File, b portolan.Binding, cfg Config) (*local, error) {
	l := &local{cancel: func() {}}
	if file == nil {
		return l, nil
	}
	defer func() { _ = file.Close() }()
	var serve func(context.Context) error
	var err error
	if b.Proto == portolan.UDP {
		serve, err = l.udp(file, b, cfg)
	} else {
		serve, err = l.tcp(file, b, cfg)
	}
	if err != nil {
		return nil, fmt.Errorf("serve %s in the machine: %w", b, err)
	}
	ctx, l.cancel = context.WithCancel(ctx)
	l.serving.Go(func() {
		if err := serve(ctx); err != nil {
			cfg.Log.Error("published port fails in the machine", "binding", b, "error", err)
		}
	})
	return l, nil
}

// close frees the port before it returns: a restarted engine binds it again. The
// connections end with it, as docker-proxy's do.
func (l *local) close() {
	if l.socket != nil {
		_ = l.socket.Close()
	}
	l.cancel()
	l.serving.Wait()
}

func (l *local) tcp(file *os.File, b portolan.Binding, cfg Config) (func(context.Context) error, error) {
	if err := listen(file); err != nil {
		return nil, err
	}
	generic, err := net.FileListener(file)
	if err != nil {
		return nil, err
	}
	listener, ok := generic.(*net.TCPListener)
	if !ok {
		_ = generic.Close()
		return nil, fmt.Errorf("socket %s is not TCP", generic.Addr())
	}
	server := &forward.TCP{
		Listener: listener, Log: cfg.Log, Relay: cfg.Relay,
		Dial: forward.Waiting(func(ctx context.Context, _ netip.AddrPort) (datapath.Conn, error) {
			var d net.Dialer
			conn, err := d.DialContext(ctx, "tcp", b.Container.String())
			if err != nil {
				return nil, err
			}
			return conn.(*net.TCPConn), nil
		}),
	}
	l.socket = server
	return server.Serve, nil
}

// listen turns a socket that is only bound into a listening one; one that
// listens keeps its queue.
func listen(file *os.File) error {
	raw, err := file.SyscallConn()
	if err != nil {
		return err
	}
	var listenErr error
	if err := raw.Control(func(fd uintptr) { listenErr = unix.Listen(int(fd), unix.SOMAXCONN) }); err != nil {
		return err
	}
	return os.NewSyscallError("listen", listenErr)
}

func (l *local) udp(file *os.File, b portolan.Binding, cfg Config) (func(context.Context) error, error) {
	generic, err := net.FilePacketConn(file)
	if err != nil {
		return nil, err
	}
	conn, ok := generic.(*net.UDPConn)
	if !ok {
		_ = generic.Close()
		return nil, fmt.Errorf("socket %s is not UDP", generic.LocalAddr())
	}
	server := &forward.UDP{
		Conn: conn, Log: cfg.Log,
		Dial: func(ctx context.Context, _ netip.AddrPort) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "udp", b.Container.String())
		},
	}
	l.socket = server
	return server.Serve, nil
}
