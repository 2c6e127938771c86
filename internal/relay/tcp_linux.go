package relay

import (
	"net"

	"golang.org/x/sys/unix"

	"github.com/portolan-net/portolan/internal/datapath"
	"github.com/portolan-net/portolan/internal/socket"
)

// ordinary returns conn as one that can be read and written by package net,
// tuned.
func ordinary(conn datapath.Conn) datapath.Conn {
	if raw, ok := conn.(*socket.TCP); ok {
		made, err := raw.Ordinary()
		if err != nil {
			return conn // closed: its next use says so
		}
		conn = made
	}
	if tcp, ok := conn.(*net.TCPConn); ok {
		if raw, err := tcp.SyscallConn(); err == nil {
			_ = raw.Control(func(fd uintptr) { socket.Tune(int(fd)) }) // fails on a closed one only
		}
	}
	return conn
}

// watch waits until conn has failed, mostly by an RST, and returns true; or
// until it is closed or its read deadline passes, and returns false. It reads
// nothing. POLLHUP does not count: a FIN each way is a HUP, too.
func watch(conn datapath.Conn) bool {
	tcp, ok := conn.(*net.TCPConn)
	if !ok {
		return false
	}
	raw, err := tcp.SyscallConn()
	if err != nil {
		return false
	}
	failed := false
	_ = raw.Read(func(fd uintptr) bool { // its error says closed or deadline
		failed = hasError(int(fd))
		return failed
	})
	return failed
}

// hasError reports a pending error of the socket without taking it.
func hasError(fd int) bool {
	set := []unix.PollFd{{Fd: int32(fd)}}
	n, err := retry(func() (int, error) { return unix.Poll(set, 0) })
	return err == nil && n == 1 && set[0].Revents&unix.POLLERR != 0
}

// hidesReset reports whether the end of the stream that was read from src is
// in truth an RST whose error the opposite direction's write has taken: a FIN
// alone never leaves a socket in state CLOSE while we have not sent ours. The
// state is read first, because shut is set before our FIN.
func hidesReset(src *side) bool {
	tcp, ok := src.Conn.(*net.TCPConn)
	if !ok {
		return false
	}
	raw, err := tcp.SyscallConn()
	if err != nil {
		return false
	}
	closed := false
	err = raw.Control(func(fd uintptr) { closed = isClosed(int(fd)) })
	if err != nil {
		return true // the opposite direction is resetting the flow
	}
	return closed && !src.shut.Load()
}

// isClosed reports whether a TCP socket's connection is gone altogether.
func isClosed(fd int) bool {
	const stateClose = 7 // TCP_CLOSE, include/net/tcp_states.h
	info, err := unix.GetsockoptTCPInfo(fd, unix.IPPROTO_TCP, unix.TCP_INFO)
	return err != nil || info.State == stateClose
}
