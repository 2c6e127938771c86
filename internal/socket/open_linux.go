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

// Accept waits for the next connection of a listening socket that is
// non-blocking. Errors are those of accept4(2), and os.ErrDeadlineExceeded and
// os.ErrClosed.
func Accept(listener *os.File) (*TCP, error) {
	raw, err := listener.SyscallConn()
	if err != nil {
		return nil, err
	}
	var made *TCP
	var failure error
	err = raw.Read(func(fd uintptr) bool {
		made, failure = accept(int(fd))
		return !errors.Is(failure, unix.EAGAIN)
	})
	if err := errors.Join(err, failure); err != nil {
		return nil, fmt.Errorf("accept: %w", err)
	}
	return made, nil
}

func accept(listener int) (*TCP, error) {
	for {
		fd, peer, err := unix.Accept4(listener, unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC)
		switch err {
		case nil:
		case unix.EINTR, unix.ECONNABORTED: // went away before it was accepted
			continue
		default:
			return nil, err
		}
		own, err := unix.Getsockname(fd)
		if err != nil {
			_ = unix.Close(fd)
			return nil, err
		}
		return Own(fd, fromSockaddr(own), fromSockaddr(peer)), nil
	}
}

// Dial connects an ordinary socket of this process. Setup, which may be nil, is
// called before it connects. Errors are the kernel's, or ctx's.
//
// A dial of this computer can meet itself: where nobody listens on the port, the
// kernel may choose that very port for it, and both ends are then one socket (RFC
// 9293, 3.5: simultaneous open). Such a dial is made again, as package net does.
func Dial(ctx context.Context, to netip.AddrPort, setup func(fd int)) (*TCP, error) {
	for range selfDials {
		conn, err := dial(ctx, to, setup)
		if err != nil || conn.Local() != conn.Remote() {
			return conn, err
		}
		_ = conn.Close()
	}
	return nil, fmt.Errorf("connect: %w: only to itself", unix.ECONNREFUSED)
}

// selfDials is how often a dial may meet itself: the kernel chooses from tens of
// thousands of ports.
const selfDials = 3

func dial(ctx context.Context, to netip.AddrPort, setup func(fd int)) (*TCP, error) {
	family := unix.AF_INET
	if to.Addr().Is6() {
		family = unix.AF_INET6
	}
	fd, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("socket: %w", err)
	}
	if setup != nil {
		setup(fd)
	}
	return Connect(ctx, fd, to)
}

// Connect connects fd, a non-blocking TCP socket, which is the TCP's from then
// on, and closed after an error. A peer on the same computer has mostly answered
// when connect(2) returns: then nothing waits.
func Connect(ctx context.Context, fd int, to netip.AddrPort) (*TCP, error) {
	err := unix.Connect(fd, Sockaddr(to))
	if errors.Is(err, unix.EINPROGRESS) {
		fd, err = finish(ctx, fd)
	}
	var own unix.Sockaddr
	if err == nil {
		own, err = unix.Getsockname(fd)
	}
	if err != nil {
		if fd >= 0 {
			_ = unix.Close(fd)
		}
		return nil, fmt.Errorf("connect: %w", err)
	}
	return Own(fd, fromSockaddr(own), unmap(to)), nil
}

// finish waits until a connection stands, failed, or ctx ends. It returns another
// descriptor if it had to wait, and -1 if none is left.
func finish(ctx context.Context, fd int) (int, error) {
	if done, err := connected(fd); done {
		return fd, err
	}
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
	code, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ERROR)
	if err != nil {
		return true, err
	}
	if code != 0 {
		return true, unix.Errno(code)
	}
	// Woken early or too soon, there is no error and no peer yet.
	_, err = unix.Getpeername(fd)
	return !errors.Is(err, unix.ENOTCONN), nil
}

// Sockaddr is an address as system calls take it.
func Sockaddr(a netip.AddrPort) unix.Sockaddr {
	if addr := a.Addr().Unmap(); addr.Is4() {
		return &unix.SockaddrInet4{Port: int(a.Port()), Addr: addr.As4()}
	}
	return &unix.SockaddrInet6{Port: int(a.Port()), Addr: a.Addr().As16()}
}

func fromSockaddr(from unix.Sockaddr) netip.AddrPort {
	switch a := from.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrPortFrom(netip.AddrFrom4(a.Addr), uint16(a.Port))
	case *unix.SockaddrInet6:
		return unmap(netip.AddrPortFrom(netip.AddrFrom16(a.Addr), uint16(a.Port)))
	}
	return netip.AddrPort{}
}

// Unpace gives a connection within this computer congestion control without
// pacing: BBR, where it is the host's default, sets a timer for each segment and
// halves the speed. It helps most before the connection stands: the kernel never
// ends pacing that has begun. Connections to other computers keep the host's
// choice, as those of any program would.
func Unpace(fd int) {
	_ = unix.SetsockoptString(fd, unix.IPPROTO_TCP, unix.TCP_CONGESTION, "reno") // an optimisation
}
