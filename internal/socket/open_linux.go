package socket

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// Accept takes the next connection of a listening socket that is non-blocking and
// has had TuneListener.
// Errors are those of accept4(2); EAGAIN says that there is none now.
func Accept(listener int) (*TCP, error) {
	for {
		fd, remote, err := accept4(listener)
		if errors.Is(err, unix.EINTR) || errors.Is(err, unix.ECONNABORTED) { // went away before it was accepted
			continue
		}
		if err != nil {
			return nil, err
		}
		local, err := LocalAddr(fd)
		if err != nil {
			_ = unix.Close(fd)
			return nil, err
		}
		conn := Own(fd, local, remote)
		conn.accepted = true
		return conn, nil
	}
}

// Dial connects an ordinary socket of this process. Setup, which may be nil, is
// called before it connects. Errors are the kernel's, or ctx's.
func Dial(ctx context.Context, to netip.AddrPort, setup func(fd int)) (*TCP, error) {
	return Begin(to, setup).Wait(ctx)
}

// Attempt is a connection that may still be on its way.
type Attempt struct {
	fd   int // of one that is
	to   netip.AddrPort
	conn *TCP // both nil until it is over
	err  error
}

// Begin is Dial that does not wait. Whoever begins must Wait.
//
// A dial of this computer can meet itself: where nobody listens on the port, the
// kernel may choose that very port for it, and both ends are then one socket (RFC
// 9293, 3.5: simultaneous open). Such a dial is made again, as package net does.
// It never has to be waited for.
func Begin(to netip.AddrPort, setup func(fd int)) *Attempt {
	for range selfDials {
		a := begin(to, setup)
		if a.conn == nil || a.conn.Local() != a.conn.Remote() {
			return a
		}
		_ = a.conn.Close()
	}
	return &Attempt{err: fmt.Errorf("connect: %w: only to itself", unix.ECONNREFUSED)}
}

// selfDials is how often a dial may meet itself: the kernel chooses from tens of
// thousands of ports.
const selfDials = 3

func begin(to netip.AddrPort, setup func(fd int)) *Attempt {
	family := unix.AF_INET
	if to.Addr().Is6() {
		family = unix.AF_INET6
	}
	fd, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return &Attempt{err: fmt.Errorf("socket: %w", err)}
	}
	if setup != nil {
		setup(fd)
	}
	return Connect(fd, to)
}

// Connect begins to connect fd, a non-blocking TCP socket, which is the attempt's
// from then on, and closed if it fails. A peer on the same computer has mostly
// answered when connect(2) returns.
func Connect(fd int, to netip.AddrPort) *Attempt {
	a := &Attempt{fd: fd, to: unmap(to)}
	err := unix.Connect(fd, Sockaddr(to))
	if errors.Is(err, unix.EINPROGRESS) {
		var done bool
		if done, err = connected(fd); !done {
			return a
		}
	}
	a.settle(fd, err)
	return a
}

// settle ends the attempt with how connect(2) ended for fd, or -1.
func (a *Attempt) settle(fd int, err error) {
	var local netip.AddrPort
	if err == nil {
		local, err = LocalAddr(fd)
	}
	if err == nil {
		a.conn = Own(fd, local, a.to)
		return
	}
	a.err = fmt.Errorf("connect: %w", err)
	if fd >= 0 {
		_ = unix.Close(fd)
	}
}

// Stands reports whether the connection stands. Then Wait does not wait.
func (a *Attempt) Stands() bool { return a.conn != nil }

// Local is the own address of an attempt that is on its way, as the kernel has
// chosen it; otherwise it is not valid.
func (a *Attempt) Local() netip.AddrPort {
	if a.conn != nil || a.err != nil {
		return netip.AddrPort{}
	}
	local, _ := LocalAddr(a.fd) // never fails for a socket
	return local
}

// Wait returns the connection once it stands, or why it does not: the kernel's
// error, or ctx's.
func (a *Attempt) Wait(ctx context.Context) (*TCP, error) {
	if a.conn == nil && a.err == nil {
		a.settle(finish(ctx, a.fd))
	}
	return a.conn, a.err
}

// finish waits until a connection stands, failed, or ctx ends. It returns another
// descriptor for fd, and -1 if none is left.
func finish(ctx context.Context, fd int) (int, error) {
	file := os.NewFile(uintptr(fd), "tcp")
	defer file.Close()
	raw, err := file.SyscallConn()
	if err != nil {
		return -1, err
	}
	defer context.AfterFunc(ctx, func() { _ = file.SetWriteDeadline(time.Unix(1, 0)) })()
	var result error
	err = raw.Write(func(fd uintptr) bool {
		var done bool
		done, result = connected(int(fd))
		return done
	})
	if ctx.Err() != nil {
		return -1, context.Cause(ctx)
	}
	if err := errors.Join(err, result); err != nil {
		return -1, err
	}
	return Duplicate(file)
}

// connected reports whether a connection attempt is over, and how it ended.
func connected(fd int) (done bool, err error) {
	set := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLOUT}}
	n, err := unix.Poll(set, 0)
	switch {
	case err == unix.EINTR, err == nil && n == 0:
		return false, nil
	case err != nil:
		return true, err
	case set[0].Revents&(unix.POLLERR|unix.POLLHUP) == 0:
		return true, nil
	}
	code, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ERROR)
	if err == nil && code != 0 {
		err = unix.Errno(code)
	}
	return true, err
}

// Sockaddr is an address as system calls take it.
func Sockaddr(a netip.AddrPort) unix.Sockaddr {
	if addr := a.Addr().Unmap(); addr.Is4() {
		return &unix.SockaddrInet4{Port: int(a.Port()), Addr: addr.As4()}
	}
	return &unix.SockaddrInet6{Port: int(a.Port()), Addr: a.Addr().As16()}
}

// Unpace gives a connection within this computer congestion control without
// pacing: BBR, where it is the host's default, sets a timer for each segment and
// halves the speed. It helps most before the connection stands: the kernel never
// ends pacing that has begun. Connections to other computers keep the host's
// choice, as those of any program would.
func Unpace(fd int) {
	_ = unix.SetsockoptString(fd, unix.IPPROTO_TCP, unix.TCP_CONGESTION, "reno") // an optimisation
}
