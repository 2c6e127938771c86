package router

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/portolan-net/portolan/internal/datapath"
)

// DialTCP implements datapath.Machine. An invalid src means the host's address.
// The connection is a *net.TCPConn.
func (d *Datapath) DialTCP(ctx context.Context, src netip.Addr, dst netip.AddrPort) (datapath.Conn, error) {
	from, to := d.ends(netip.AddrPortFrom(src, 0), dst)
	conn, err := d.dial(ctx, true, from, to)
	if err != nil {
		return nil, fmt.Errorf("dial tcp %s from %s: %w", to, from.Addr(), err)
	}
	return conn.(*net.TCPConn), nil
}

// DialUDP implements datapath.Machine. An invalid src means the host's address.
// The connection is a *net.UDPConn.
func (d *Datapath) DialUDP(ctx context.Context, src, dst netip.AddrPort) (net.Conn, error) {
	from, to := d.ends(src, dst)
	if d.dialled.busy(from, to) {
		from = netip.AddrPortFrom(from.Addr(), 0)
	}
	conn, err := d.dial(ctx, false, from, to)
	if errors.Is(err, unix.EADDRINUSE) && from.Port() != 0 {
		conn, err = d.dial(ctx, false, netip.AddrPortFrom(from.Addr(), 0), to)
	}
	if err != nil {
		return nil, fmt.Errorf("dial udp %s from %s: %w", to, from, err)
	}
	udp := conn.(*net.UDPConn)
	d.dialled.add(udp)
	return udp, nil
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

// dial connects a socket of the router. Errors are the kernel's own.
func (d *Datapath) dial(ctx context.Context, tcp bool, from, to netip.AddrPort) (net.Conn, error) {
	if from.Addr().Is4() != to.Addr().Is4() {
		return nil, unix.EAFNOSUPPORT
	}
	fd, err := d.pool.get(kindFor(tcp, to.Addr()))
	if err != nil {
		return nil, err
	}
	if err := startConnect(fd, from, to); err != nil {
		_ = unix.Close(fd)
		return nil, err
	}
	// Only now: an unconnected socket would be reported as hung up.
	file := os.NewFile(uintptr(fd), "router "+to.String())
	defer file.Close()
	if err := finishConnect(ctx, file); err != nil {
		return nil, err
	}
	return net.FileConn(file) // on a duplicate
}

func startConnect(fd int, from, to netip.AddrPort) error {
	if err := unix.Bind(fd, sockaddr(from)); err != nil {
		return fmt.Errorf("bind: %w", err)
	}
	if err := unix.Connect(fd, sockaddr(to)); err != nil && !errors.Is(err, unix.EINPROGRESS) {
		return fmt.Errorf("connect: %w", err)
	}
	return nil
}

// finishConnect waits until a connection stands, failed, or ctx ends.
func finishConnect(ctx context.Context, file *os.File) error {
	raw, err := file.SyscallConn()
	if err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { _ = file.SetWriteDeadline(time.Unix(1, 0)) })
	defer stop()
	var result error
	err = raw.Write(func(fd uintptr) bool {
		var done bool
		done, result = connected(int(fd))
		return done
	})
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return errors.Join(err, result)
}

func connected(fd int) (done bool, err error) {
	code, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ERROR)
	if err != nil {
		return true, err
	}
	if code != 0 {
		return true, fmt.Errorf("connect: %w", unix.Errno(code))
	}
	// Woken early or too soon, there is no error and no peer yet.
	_, err = unix.Getpeername(fd)
	return !errors.Is(err, unix.ENOTCONN), nil
}

// fourTuple identifies a dialled UDP socket.
type fourTuple struct{ src, dst netip.AddrPort }

// dialledUDP remembers which dialled UDP sockets live. All of them have
// SO_REUSEADDR, so that a client's port can be kept towards several containers
// and beside a reply socket of the same port; the kernel would then allow the
// same four-tuple twice, and one of the two would starve.
type dialledUDP struct {
	mu    sync.Mutex // guards the rest
	conns map[fourTuple]*net.UDPConn
	sweep int // look for closed ones at this many
}

func (u *dialledUDP) busy(src, dst netip.AddrPort) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	conn, ok := u.conns[fourTuple{src, dst}]
	return ok && isOpen(conn)
}

func (u *dialledUDP) add(conn *net.UDPConn) {
	src, dst := conn.LocalAddr().(*net.UDPAddr).AddrPort(), conn.RemoteAddr().(*net.UDPAddr).AddrPort()
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.conns == nil {
		u.conns = map[fourTuple]*net.UDPConn{}
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

// isOpen reports whether the owner has not closed conn.
func isOpen(conn *net.UDPConn) bool {
	raw, err := conn.SyscallConn()
	return err == nil && raw.Control(func(uintptr) {}) == nil
}
