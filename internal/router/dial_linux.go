package router

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"github.com/portolan-net/portolan/internal/datapath"
	"github.com/portolan-net/portolan/internal/socket"
)

// DialTCP implements datapath.Machine. An invalid src means the host's address.
// The connection is a *socket.TCP.
func (d *Datapath) DialTCP(ctx context.Context, src netip.Addr, dst netip.AddrPort) (datapath.Conn, error) {
	from, to := d.ends(netip.AddrPortFrom(src, 0), dst)
	fd, err := d.pool.get(kindFor(true, to.Addr()))
	if err != nil {
		return nil, dialError(from, to, err)
	}
	return d.beginDial(fd, from, to).wait(ctx)
}

// StartDial implements datapath.Dialer. A container has mostly answered when
// connect(2) returns, and done is called at once.
func (d *Datapath) StartDial(ctx context.Context, src netip.Addr, dst netip.AddrPort, done func(datapath.Conn, error)) {
	from, to := d.ends(netip.AddrPortFrom(src, 0), dst)
	fd, ok := d.pool.take(kindFor(true, to.Addr()))
	if !ok {
		go func() { done(d.DialTCP(ctx, src, dst)) }()
		return
	}
	dial := d.beginDial(fd, from, to)
	if dial.err == nil && !dial.attempt.Stands() {
		go func() { done(dial.wait(ctx)) }()
		return
	}
	done(dial.wait(ctx))
}

// dial is a connection of the router that is being opened.
type dial struct {
	from, to netip.AddrPort
	attempt  *socket.Attempt
	err      error // instead of an attempt
}

// beginDial binds and connects a socket of the pool.
func (d *Datapath) beginDial(fd int, from, to netip.AddrPort) dial {
	if err := bind(fd, from, to); err != nil {
		return dial{from: from, to: to, err: err}
	}
	return dial{from: from, to: to, attempt: socket.Connect(fd, to)}
}

func (d dial) wait(ctx context.Context) (datapath.Conn, error) {
	if d.err != nil {
		return nil, dialError(d.from, d.to, d.err)
	}
	conn, err := d.attempt.Wait(ctx)
	if err != nil {
		return nil, dialError(d.from, d.to, err)
	}
	return conn, nil
}

func dialError(from, to netip.AddrPort, err error) error {
	return fmt.Errorf("dial tcp %s from %s: %w", to, from.Addr(), err)
}

// DialUDP implements datapath.Machine. An invalid src means the host's address.
// The connection is a datapath.Detacher.
func (d *Datapath) DialUDP(_ context.Context, src, dst netip.AddrPort) (net.Conn, error) {
	from, to := d.ends(src, dst)
	if d.dialled.busy(from, to) {
		from = netip.AddrPortFrom(from.Addr(), 0)
	}
	udp, err := d.dialUDP(from, to)
	if errors.Is(err, unix.EADDRINUSE) && from.Port() != 0 {
		udp, err = d.dialUDP(netip.AddrPortFrom(from.Addr(), 0), to)
	}
	if err != nil {
		return nil, fmt.Errorf("dial udp %s from %s: %w", to, from, err)
	}
	conn := &dialledConn{UDPConn: udp}
	d.dialled.add(conn)
	return conn, nil
}

// dialledConn is a connection that can leave Go's poller.
type dialledConn struct {
	*net.UDPConn
	away atomic.Bool // detached, and not yet released
}

// Detach implements datapath.Detacher.
func (c *dialledConn) Detach() (fd int, release func(), err error) {
	if fd, err = socket.Duplicate(c.UDPConn); err != nil {
		return -1, nil, err
	}
	c.away.Store(true)
	_ = c.Close() // the socket stays
	return fd, func() { c.away.Store(false) }, nil
}

// ends unmaps both addresses and fills in the host's as source.
func (d *Datapath) ends(src, dst netip.AddrPort) (from, to netip.AddrPort) {
	to = netip.AddrPortFrom(dst.Addr().Unmap(), dst.Port())
	addr := src.Addr().Unmap()
	if !addr.IsValid() || addr.IsUnspecified() {
		addr = d.link.Host().For(to.Addr())
	}
	return netip.AddrPortFrom(addr, src.Port()), to
}

// dialUDP connects a socket of the router. Errors are the kernel's own.
func (d *Datapath) dialUDP(from, to netip.AddrPort) (*net.UDPConn, error) {
	fd, err := d.pool.get(kindFor(false, to.Addr()))
	if err != nil {
		return nil, err
	}
	if err := bind(fd, from, to); err != nil {
		return nil, err
	}
	file := os.NewFile(uintptr(fd), "router "+to.String())
	defer file.Close()
	if err := unix.Connect(fd, socket.Sockaddr(to)); err != nil {
		return nil, fmt.Errorf("connect: %w", err)
	}
	conn, err := net.FileConn(file) // on a duplicate
	if err != nil {
		return nil, err
	}
	return conn.(*net.UDPConn), nil
}

// bind gives fd, which it closes after an error, a source address for to.
func bind(fd int, from, to netip.AddrPort) error {
	err := error(unix.EAFNOSUPPORT)
	if from.Addr().Is4() == to.Addr().Is4() {
		err = unix.Bind(fd, socket.Sockaddr(from))
	}
	if err != nil {
		_ = unix.Close(fd)
		return fmt.Errorf("bind: %w", err)
	}
	return nil
}

// fourTuple identifies a dialled UDP socket.
type fourTuple struct{ src, dst netip.AddrPort }

// dialledUDP remembers which dialled UDP sockets live. All of them have
// SO_REUSEADDR, so that a client's port can be kept towards several containers
// and beside a reply socket of the same port; the kernel would then allow the
// same four-tuple twice, and one of the two would starve.
type dialledUDP struct {
	mu    sync.Mutex // guards the rest
	conns map[fourTuple]*dialledConn
	sweep int // look for closed ones at this many
}

func (u *dialledUDP) busy(src, dst netip.AddrPort) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	conn, ok := u.conns[fourTuple{src, dst}]
	return ok && isOpen(conn)
}

func (u *dialledUDP) add(conn *dialledConn) {
	src, dst := conn.LocalAddr().(*net.UDPAddr).AddrPort(), conn.RemoteAddr().(*net.UDPAddr).AddrPort()
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.conns == nil {
		u.conns = map[fourTuple]*dialledConn{}
	}
	if len(u.conns) >= u.sweep {
		for key, conn := range u.conns {
			if !isOpen(conn) {
				delete(u.conns, key)
			}
		}
		u.sweep = max(64, 2*len(u.conns))
	}
	u.conns[fourTuple{unmap(src), unmap(dst)}] = conn
}

func unmap(ap netip.AddrPort) netip.AddrPort {
	return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
}

// isOpen reports whether the owner has neither closed conn nor released it.
func isOpen(conn *dialledConn) bool {
	if conn.away.Load() {
		return true
	}
	raw, err := conn.SyscallConn()
	return err == nil && raw.Control(func(uintptr) {}) == nil
}
