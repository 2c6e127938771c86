package router

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/portolan-net/portolan/internal/datapath"
	"github.com/portolan-net/portolan/internal/socket"
)

// DialTCP implements datapath.Machine. An invalid src means the host's address.
// The connection is a *socket.TCP.
func (d *Datapath) DialTCP(ctx context.Context, src netip.Addr, dst netip.AddrPort) (datapath.Conn, error) {
	from, to := d.ends(netip.AddrPortFrom(src, 0), dst)
	conn, err := d.dialTCP(ctx, from, to)
	if err != nil {
		return nil, fmt.Errorf("dial tcp %s from %s: %w", to, from.Addr(), err)
	}
	return conn, nil
}

func (d *Datapath) dialTCP(ctx context.Context, from, to netip.AddrPort) (*socket.TCP, error) {
	fd, err := d.bound(true, from, to)
	if err != nil {
		return nil, err
	}
	return socket.Connect(fd, to).Wait(ctx)
}

// DialUDP implements datapath.Machine. An invalid src means the host's address.
// The connection is a *net.UDPConn.
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

// dialUDP connects a socket of the router. Errors are the kernel's own.
func (d *Datapath) dialUDP(from, to netip.AddrPort) (*net.UDPConn, error) {
	fd, err := d.bound(false, from, to)
	if err != nil {
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

// bound is a socket of the router with a source address.
func (d *Datapath) bound(tcp bool, from, to netip.AddrPort) (int, error) {
	if from.Addr().Is4() != to.Addr().Is4() {
		return -1, unix.EAFNOSUPPORT
	}
	fd, err := d.pool.get(kindFor(tcp, to.Addr()))
	if err != nil {
		return -1, err
	}
	if err := unix.Bind(fd, socket.Sockaddr(from)); err != nil {
		_ = unix.Close(fd)
		return -1, fmt.Errorf("bind: %w", err)
	}
	return fd, nil
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
