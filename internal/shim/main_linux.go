package shim

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/portolan-net/portolan/internal/portolan"
)

// What dockerd passes as os/exec's ExtraFiles.
const (
	statusFD = 3
	socketFD = 4
)

// The engine gives up after 16 s; its user is told more by then.
const (
	connectLimit = 4 * time.Second  // for an agent that is just starting
	startLimit   = 12 * time.Second // for connecting and the agent's answer
	// stopLimit is for the agent's and the daemon's closing, which takes
	// milliseconds; the engine holds a lock meanwhile.
	stopLimit = 5 * time.Second

	firstPause = 20 * time.Millisecond // between attempts to connect
	lastPause  = time.Second
)

// Main is the shim: args are the flags that dockerd gives its docker-proxy,
// socket is where the agent's Registry listens. It returns the exit code.
func Main(args []string, socket string) int {
	syscall.CloseOnExec(statusFD)
	status := os.NewFile(statusFD, "status pipe")
	signals := make(chan os.Signal, 4)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	ctx := context.Background() //nolint:forbidigo // this is a program's main
	w, err := newWaiter(args, socket)
	if err == nil {
		err = w.start(ctx, signals)
	}
	if err != nil {
		_, _ = fmt.Fprintf(status, "1\n%s", err)
		_ = status.Close()
		return 1
	}
	if _, err := io.WriteString(status, "0\n"); err != nil {
		return 1 // dockerd has gone
	}
	_ = status.Close()
	w.wait(ctx, signals)
	return 0
}

// waiter is one shim.
type waiter struct {
	binding portolan.Binding
	socket  string // the agent's
	fd      int    // of the published socket; -1 without one
	conn    *net.UnixConn
}

func newWaiter(args []string, socket string) (*waiter, error) {
	binding, passed, err := parse(args)
	if err != nil {
		return nil, err
	}
	w := &waiter{binding: binding, socket: socket, fd: -1}
	if passed {
		syscall.CloseOnExec(socketFD)
		w.fd = socketFD
	}
	return w, nil
}

// parse reads docker-proxy's flags. passed says whether descriptor 4 is a socket.
func parse(args []string) (b portolan.Binding, passed bool, err error) {
	var proto string
	var host, container netip.Addr
	var hostPort, containerPort uint
	flags := flag.NewFlagSet("docker-proxy", flag.ContinueOnError)
	flags.SetOutput(io.Discard)
	flags.StringVar(&proto, "proto", "tcp", "protocol")
	flags.TextVar(&host, "host-ip", netip.IPv4Unspecified(), "address on the host")
	flags.UintVar(&hostPort, "host-port", 0, "port on the host")
	flags.TextVar(&container, "container-ip", netip.IPv4Unspecified(), "address of the container")
	flags.UintVar(&containerPort, "container-port", 0, "port of the container")
	flags.BoolVar(&passed, "use-listen-fd", false, "descriptor 4 is the bound socket")
	if err := flags.Parse(args); err != nil {
		return b, false, fmt.Errorf("read docker-proxy flags: %w", err)
	}
	if proto != portolan.TCP.String() && proto != portolan.UDP.String() {
		return b, false, fmt.Errorf("publish %s/%s: Portolan carries TCP and UDP only", netip.AddrPortFrom(host, uint16(hostPort)), proto)
	}
	if hostPort == 0 || hostPort > 65535 || containerPort == 0 || containerPort > 65535 {
		return b, false, fmt.Errorf("read docker-proxy flags: ports %d and %d: want 1 to 65535", hostPort, containerPort)
	}
	if err := b.Proto.UnmarshalText([]byte(proto)); err != nil {
		return b, false, err
	}
	b.Host = netip.AddrPortFrom(host.Unmap(), uint16(hostPort))
	b.Container = netip.AddrPortFrom(container.Unmap(), uint16(containerPort))
	return b, passed, nil
}

// start publishes the binding; a signal that comes meanwhile ends it.
func (w *waiter) start(ctx context.Context, signals <-chan os.Signal) error {
	ctx, cancel := context.WithTimeout(ctx, startLimit)
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- w.publish(ctx) }()
	select {
	case err := <-done:
		return err
	case s := <-signals:
		cancel()
		err := errors.Join(fmt.Errorf("publish %s: interrupted by signal %s", w.binding, s), <-done)
		w.hangUp()
		return err
	}
}

func (w *waiter) publish(ctx context.Context) error {
	dialCtx, cancel := context.WithTimeout(ctx, connectLimit)
	defer cancel()
	if err := w.connect(dialCtx); err != nil {
		return err
	}
	return w.ask(ctx, verbPublish, w.fd)
}

// connect reaches the agent, and waits for it as long as ctx allows.
func (w *waiter) connect(ctx context.Context) error {
	var d net.Dialer
	for pause := firstPause; ; pause = min(2*pause, lastPause) {
		conn, err := d.DialContext(ctx, "unix", w.socket)
		if err == nil {
			w.conn = conn.(*net.UnixConn)
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("publish %s: reach portolan-agent on %s: %w; `portolan status` on the host tells more", w.binding, w.socket, cause(err))
		case <-time.After(pause):
		}
	}
}

func cause(err error) error {
	if number, ok := errors.AsType[syscall.Errno](err); ok {
		return number
	}
	return err
}

// ask sends one request and waits for its answer.
func (w *waiter) ask(ctx context.Context, v verb, fd int) error {
	conn := w.conn
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	err := send(conn, request{v, w.binding}, fd)
	var a answer
	if err == nil {
		var file *os.File
		file, err = receive(conn, &a)
		if file != nil {
			_ = file.Close()
		}
	}
	if err != nil {
		return fmt.Errorf("%s %s: portolan-agent does not answer: %w", v, w.binding, cause(err))
	}
	if a.Error != "" {
		return errors.New(a.Error)
	}
	return nil
}

func (w *waiter) hangUp() {
	if w.conn != nil {
		_ = w.conn.Close()
		w.conn = nil
	}
}

// wait holds the connection until a signal comes: SIGINT unpublishes, SIGTERM
// leaves the end to the agent, which sees the connection close.
func (w *waiter) wait(ctx context.Context, signals <-chan os.Signal) {
	defer w.hangUp()
	for {
		gone := w.watch()
		select {
		case s := <-signals:
			gone.stop()
			if s == os.Interrupt {
				w.unpublish(ctx)
			}
			return
		case <-gone.c:
			w.hangUp()
			if s := w.again(ctx, signals); s != nil {
				if s == os.Interrupt {
					w.unpublish(ctx)
				}
				return
			}
		}
	}
}

// watcher sees a connection end.
type watcher struct {
	c    chan struct{} // closed when its goroutine has ended
	stop func()
}

func (w *waiter) watch() watcher {
	conn, c := w.conn, make(chan struct{})
	go func() {
		defer close(c)
		_, _ = conn.Read(make([]byte, 1)) // the agent says nothing unasked
	}()
	return watcher{c, func() {
		_ = conn.SetReadDeadline(time.Unix(1, 0))
		<-c
		_ = conn.SetReadDeadline(time.Time{})
	}}
}

// again connects to a new agent and renews, however long that takes; it returns
// the signal that ended the attempt, nil when the agent has the binding.
func (w *waiter) again(ctx context.Context, signals <-chan os.Signal) os.Signal {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	done := make(chan struct{})
	go func() {
		defer close(done)
		for pause := firstPause; ctx.Err() == nil; pause = min(2*pause, lastPause) {
			if w.connect(ctx) == nil && w.ask(ctx, verbRenew, w.fd) == nil {
				return
			}
			w.hangUp()
			select {
			case <-ctx.Done():
			case <-time.After(pause):
			}
		}
	}()
	select {
	case <-done:
		return nil
	case s := <-signals:
		cancel()
		<-done
		return s
	}
}

// unpublish returns once agent and daemon have closed, or can't be reached: the
// engine waits. An agent that died may have a successor by now, which is told on
// a new connection.
func (w *waiter) unpublish(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, stopLimit)
	defer cancel()
	if w.conn != nil && w.ask(ctx, verbUnpublish, -1) == nil {
		return
	}
	w.hangUp()
	dialCtx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	if w.connect(dialCtx) == nil {
		_ = w.ask(ctx, verbUnpublish, -1) // nobody is left to be told
	}
}
