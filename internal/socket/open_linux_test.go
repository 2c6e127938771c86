package socket

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestAcceptAndDial(t *testing.T) {
	for _, address := range []string{"127.0.0.1:0", "[::1]:0"} {
		listener, err := net.Listen("tcp", address)
		must(t, err)
		defer listener.Close()
		at := listener.Addr().(*net.TCPAddr).AddrPort()
		client, err := Dial(t.Context(), at, nil)
		must(t, err)
		defer client.Close()
		fd, err := Duplicate(listener.(*net.TCPListener))
		must(t, err)
		defer syscall.Close(fd)
		server, err := Accept(fd)
		must(t, err)
		if _, err := Accept(fd); err != syscall.EAGAIN {
			t.Errorf("accept without a client: %v, want EAGAIN", err)
		}
		defer server.Close()
		if client.Remote() != at || server.Local() != at || client.Local() != server.Remote() || server.RemoteAddr().String() != client.LocalAddr().String() {
			t.Errorf("client %s to %s, server %s from %s; listener %s", client.Local(), client.Remote(), server.Local(), server.Remote(), at)
		}
		if _, err := client.Write([]byte("ordinary")); err != nil {
			t.Error(err)
		}
		buf := make([]byte, 100)
		n, err := server.Read(buf)
		if string(buf[:n]) != "ordinary" || err != nil {
			t.Errorf("read %q, %v", buf[:n], err)
		}
	}
}

// Who polls a descriptor keeps it: it is not closed nor given to package net by
// those who read, write or set deadlines, and is still that of Control.
func TestLentDescriptorStays(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	defer listener.Close()
	conn, err := Dial(t.Context(), listener.Addr().(*net.TCPAddr).AddrPort(), nil)
	must(t, err)
	defer conn.Close()
	must(t, conn.SetDeadline(time.Now().Add(time.Hour))) // ordinary
	fd, err := conn.Lend()
	must(t, err)
	if err := conn.SetDeadline(time.Time{}); !errors.Is(err, net.ErrClosed) {
		t.Errorf("deadline of a lent connection: %v", err)
	}
	if _, err := conn.Write([]byte("x")); !errors.Is(err, net.ErrClosed) {
		t.Errorf("write to a lent connection: %v", err)
	}
	if _, err := syscall.Write(fd, []byte("x")); err != nil {
		t.Errorf("write to the descriptor: %v", err)
	}
	must(t, conn.Control(func(now int) {
		if now != fd {
			t.Errorf("Control has descriptor %d, lent is %d", now, fd)
		}
	}))
	conn.Unlend()
	if _, err := conn.Write([]byte("x")); err != nil {
		t.Errorf("write to a connection that came back: %v", err)
	}
	must(t, conn.Close())
	if _, err := conn.Lend(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("lend a closed one: %v", err)
	}
}

func TestDialErrors(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	at := listener.Addr().(*net.TCPAddr).AddrPort()
	must(t, listener.Close())
	if _, err := Dial(t.Context(), at, nil); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("closed port: %v", err)
	}
	// A backlog of one that is full answers no SYN.
	full, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM, 0)
	must(t, err)
	defer syscall.Close(full)
	must(t, syscall.Bind(full, &syscall.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}))
	must(t, syscall.Listen(full, 0))
	name, err := syscall.Getsockname(full)
	must(t, err)
	at = netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), uint16(name.(*syscall.SockaddrInet4).Port))
	first, err := Dial(t.Context(), at, nil)
	must(t, err)
	defer first.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := Dial(ctx, at, nil); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("silent port: %v", err)
	}
}

func TestCloseIsOnce(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	defer listener.Close()
	conn, err := net.Dial("tcp", listener.Addr().String())
	must(t, err)
	detached, err := Detach(conn.(*net.TCPConn))
	must(t, err)
	if _, err := conn.Write([]byte("x")); !errors.Is(err, net.ErrClosed) {
		t.Errorf("write to what was detached: %v", err)
	}
	must(t, detached.SetLinger(0))
	must(t, detached.Close())
	for name, err := range map[string]error{"close": detached.Close(), "control": detached.Control(func(int) {}), "shut": detached.CloseWrite()} {
		if !errors.Is(err, net.ErrClosed) {
			t.Errorf("%s of a closed one: %v", name, err)
		}
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// A port that nobody serves refuses, also when the kernel chooses just that port
// for the dial.
func TestDialMeetsNotItself(t *testing.T) {
	const port = 1025 // below what the kernel chooses from
	to := netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), port)
	dials := 0
	_, err := Dial(t.Context(), to, func(fd int) {
		dials++
		must(t, unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1))
		must(t, unix.Bind(fd, Sockaddr(to)))
	})
	if !errors.Is(err, syscall.ECONNREFUSED) || dials != selfDials {
		t.Errorf("after %d dials: %v", dials, err)
	}
}

// What is accepted has the options of its listener, so they are set once.
func TestAcceptedConnectionsAreTuned(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	defer listener.Close()
	fd, err := Duplicate(listener.(*net.TCPListener))
	must(t, err)
	defer syscall.Close(fd)
	TuneListener(fd)
	client, err := Dial(t.Context(), listener.Addr().(*net.TCPAddr).AddrPort(), nil)
	must(t, err)
	defer client.Close()
	must(t, client.Tune())
	server, err := Accept(fd)
	must(t, err)
	defer server.Close()
	must(t, server.Tune())
	for name, option := range map[string]struct{ level, name, want int }{
		"no delay":            {unix.IPPROTO_TCP, unix.TCP_NODELAY, 1},
		"not sent":            {unix.IPPROTO_TCP, unix.TCP_NOTSENT_LOWAT, notSent},
		"keep-alive":          {unix.SOL_SOCKET, unix.SO_KEEPALIVE, 1},
		"keep-alive idle":     {unix.IPPROTO_TCP, unix.TCP_KEEPIDLE, 120},
		"keep-alive interval": {unix.IPPROTO_TCP, unix.TCP_KEEPINTVL, 75},
		"keep-alive count":    {unix.IPPROTO_TCP, unix.TCP_KEEPCNT, 9},
		"urgent data inline":  {unix.SOL_SOCKET, unix.SO_OOBINLINE, 1},
	} {
		for _, conn := range []*TCP{client, server} {
			must(t, conn.Control(func(fd int) {
				if got, err := unix.GetsockoptInt(fd, option.level, option.name); got != option.want || err != nil {
					t.Errorf("%s of %s: %d, %v; want %d", name, conn.LocalAddr(), got, err, option.want)
				}
			}))
		}
	}
}
