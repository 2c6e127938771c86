package router

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"io"
	"net"
	"net/netip"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/portolan-net/portolan/internal/datapath"
	"github.com/portolan-net/portolan/internal/portolan"
)

func TestConnect(t *testing.T) {
	l := newLab(t)
	flows := make(chan portolan.Flow, 1)
	l.attach(t, &fakeHandler{open: func(ctx context.Context, flow portolan.Flow) (datapath.Endpoint, error) {
		flows <- flow
		return openEcho(ctx, flow)
	}})
	both(t, func(t *testing.T, server, container netip.Addr) {
		dst := netip.AddrPortFrom(server, 80)
		conn, err := l.dial("tcp", dst, 5*time.Second)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		flow := <-flows
		if want := (portolan.Flow{Proto: portolan.TCP, Src: addrPort(conn.LocalAddr()), Dst: dst}); flow != want || flow.Src.Addr() != container {
			t.Errorf("flow = %v, want %v", flow, want)
		}
		want := make([]byte, 4<<20)
		rand.Read(want)
		go func() {
			_, _ = conn.Write(want)
			_ = conn.(*net.TCPConn).CloseWrite()
		}()
		got, err := io.ReadAll(conn) // ends only because a half-close crosses
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("echo: %d bytes, %v; want the same %d bytes", len(got), err, len(want))
		}
	})
}

func TestRefusals(t *testing.T) {
	l := newLab(t)
	var reason atomic.Pointer[error]
	l.attach(t, &fakeHandler{open: func(ctx context.Context, _ portolan.Flow) (datapath.Endpoint, error) {
		return nil, *reason.Load()
	}})
	for _, c := range []struct {
		name         string
		reason       error
		want4, want6 error
	}{
		{"refused", unix.ECONNREFUSED, unix.ECONNREFUSED, unix.ECONNREFUSED},
		{"host unreachable", unix.EHOSTUNREACH, unix.EHOSTUNREACH, unix.EHOSTUNREACH},
		{"net unreachable", unix.ENETUNREACH, unix.ENETUNREACH, unix.ENETUNREACH},
		{"prohibited", unix.EACCES, unix.EHOSTUNREACH, unix.EACCES},
	} {
		t.Run(c.name, func(t *testing.T) {
			reason.Store(&c.reason)
			both(t, func(t *testing.T, server, _ netip.Addr) {
				want := c.want4
				if server.Is6() {
					want = c.want6
				}
				// Also the gateway, whose services are the handler's matter.
				gateway := portolan.DefaultLink().Gateway().For(server)
				for _, addr := range []netip.Addr{server, gateway} {
					began := time.Now()
					_, err := l.dial("tcp", netip.AddrPortFrom(addr, 81), 20*time.Second)
					if !errors.Is(err, want) {
						t.Errorf("dial %s: %v, want %v", addr, err, want)
					}
					if took := time.Since(began); took > 900*time.Millisecond {
						t.Errorf("dial %s took %v: it was not answered at once", addr, took)
					}
				}
			})
		})
	}
	t.Run("silent", func(t *testing.T) {
		err := error(unix.ETIMEDOUT)
		reason.Store(&err)
		both(t, func(t *testing.T, server, _ netip.Addr) {
			_, err := l.dial("tcp", netip.AddrPortFrom(server, 81), 1500*time.Millisecond)
			var timeout net.Error
			if !errors.As(err, &timeout) || !timeout.Timeout() {
				t.Errorf("dial: %v, want silence", err)
			}
		})
	})
}

// TestHoldOutlastsRetransmission holds a SYN while the machine repeats it.
func TestHoldOutlastsRetransmission(t *testing.T) {
	l := newLab(t)
	var opened atomic.Int32
	l.attach(t, &fakeHandler{open: func(ctx context.Context, flow portolan.Flow) (datapath.Endpoint, error) {
		opened.Add(1)
		time.Sleep(2500 * time.Millisecond)
		return openEcho(ctx, flow)
	}})
	both(t, func(t *testing.T, server, _ netip.Addr) {
		opened.Store(0)
		began := time.Now()
		conn, err := l.dial("tcp", netip.AddrPortFrom(server, 80), 20*time.Second)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		if took := time.Since(began); took < 2500*time.Millisecond {
			t.Errorf("connected after %v, before the far side stood", took)
		}
		if n := opened.Load(); n != 1 {
			t.Errorf("OpenTCP called %d times, want once", n)
		}
		checkEcho(t, conn)
	})
}

func checkEcho(t *testing.T, conn net.Conn) {
	t.Helper()
	if err := conn.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(conn, "hello"); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, 5)
	if _, err := io.ReadFull(conn, got); err != nil || string(got) != "hello" {
		t.Fatalf("echo = %q, %v", got, err)
	}
}

// TestNewAttemptCancelsOld reuses a port with a new sequence number.
func TestNewAttemptCancelsOld(t *testing.T) {
	l := newLab(t)
	first := make(chan error, 1)
	var opened atomic.Int32
	l.attach(t, &fakeHandler{open: func(ctx context.Context, flow portolan.Flow) (datapath.Endpoint, error) {
		if opened.Add(1) > 1 {
			return openEcho(ctx, flow)
		}
		select {
		case <-ctx.Done():
			first <- nil
		case <-time.After(10 * time.Second):
			first <- errors.New("context of the first attempt goes on")
		}
		return nil, ctx.Err()
	}})
	dst := netip.AddrPortFrom(server4, 80)
	if _, err := l.dialFrom(40001, dst, 300*time.Millisecond); err == nil {
		t.Fatal("first attempt succeeds")
	}
	conn, err := l.dialFrom(40001, dst, 5*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	checkEcho(t, conn)
	if err := <-first; err != nil {
		t.Error(err)
	}
}

// TestAbandonedDialEnds: the machine stops to repeat its SYN.
func TestAbandonedDialEnds(t *testing.T) {
	l := newLab(t)
	ended := make(chan struct{})
	l.attach(t, &fakeHandler{open: func(ctx context.Context, flow portolan.Flow) (datapath.Endpoint, error) {
		<-ctx.Done()
		close(ended)
		return nil, ctx.Err()
	}})
	if _, err := l.dial("tcp", netip.AddrPortFrom(server4, 80), 300*time.Millisecond); err == nil {
		t.Fatal("dial succeeds")
	}
	select {
	case <-ended:
	case <-time.After(5 * minPatience):
		t.Error("dial on the host goes on")
	}
}

// TestPortReuseInTimeWait: the far side closed first, so the router's socket is
// in TIME_WAIT when the machine takes the same port again.
func TestPortReuseInTimeWait(t *testing.T) {
	l := newLab(t)
	l.attach(t, &fakeHandler{open: func(context.Context, portolan.Flow) (datapath.Endpoint, error) {
		return &endpoint{serve: func(conn datapath.Conn) {
			_ = conn.CloseWrite()
			_, _ = io.Copy(io.Discard, conn)
		}}, nil
	}})
	both(t, func(t *testing.T, server, _ netip.Addr) {
		for i := range 3 {
			began := time.Now()
			conn, err := l.dialFrom(40002, netip.AddrPortFrom(server, 80), 5*time.Second)
			if err != nil {
				t.Fatalf("connection %d: %v", i, err)
			}
			if _, err := io.ReadAll(conn); err != nil {
				t.Errorf("read: %v", err)
			}
			_ = conn.Close()
			if took := time.Since(began); took > 900*time.Millisecond {
				t.Errorf("connection %d took %v: its first SYN was lost", i, took)
			}
			time.Sleep(50 * time.Millisecond) // the last FIN and ACK
		}
	})
}

// dialFrom dials TCP from a port of the container.
func (l *lab) dialFrom(port uint16, dst netip.AddrPort, timeout time.Duration) (conn net.Conn, err error) {
	err = l.container.try(func() error {
		dialer := net.Dialer{Timeout: timeout, LocalAddr: &net.TCPAddr{Port: int(port)}}
		dialer.Control = func(_, _ string, raw syscall.RawConn) error {
			return raw.Control(func(fd uintptr) {
				_ = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEADDR, 1)
			})
		}
		dialer.SetMultipathTCP(false)
		conn, err = dialer.Dial("tcp", dst.String())
		return err
	})
	return conn, err
}

func TestUnknownSourceIsRefused(t *testing.T) {
	l := newLab(t)
	d := l.attach(t, &fakeHandler{open: openEcho})
	d.SetSources([]netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")})
	dst := netip.AddrPortFrom(server4, 80)
	if _, err := l.dial("tcp", dst, 5*time.Second); !errors.Is(err, unix.ECONNREFUSED) {
		t.Errorf("dial from an unknown network: %v, want refused", err)
	}
	d.SetSources([]netip.Prefix{netip.MustParsePrefix("172.30.0.0/16")})
	conn, err := l.dial("tcp", dst, 5*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	_ = conn.Close()
}

// TestDialToVanishedNetwork: the machine has no such network any more and sends
// the SYN back to its default gateway, where it must not become an outbound one.
func TestDialToVanishedNetwork(t *testing.T) {
	l := newLab(t)
	d := l.attach(t, &fakeHandler{open: func(_ context.Context, flow portolan.Flow) (datapath.Endpoint, error) {
		t.Errorf("handler gets %v", flow)
		return nil, unix.ECONNREFUSED
	}})
	d.SetSources([]netip.Prefix{netip.MustParsePrefix("172.30.0.0/24"), netip.MustParsePrefix("fd00:30::/64")})
	for src, dst := range map[netip.Addr]string{client4: "172.31.0.2:80", client6: "[fd00:31::2]:80"} {
		began := time.Now()
		if _, err := d.DialTCP(t.Context(), src, netip.MustParseAddrPort(dst)); !errors.Is(err, unix.ECONNREFUSED) {
			t.Errorf("dial %s: %v, want refused", dst, err)
		}
		if took := time.Since(began); took > 900*time.Millisecond {
			t.Errorf("dial %s took %v", dst, took)
		}
	}
}

func TestDialTCP(t *testing.T) {
	l := newLab(t)
	d := l.attach(t, &fakeHandler{})
	both(t, func(t *testing.T, server, container netip.Addr) {
		client := client4
		if server.Is6() {
			client = client6
		}
		ln := l.listen(t, container, 8080)
		for _, src := range []netip.Addr{client, {}} {
			conn, err := d.DialTCP(t.Context(), src, netip.AddrPortFrom(container, 8080))
			if err != nil {
				t.Fatal(err)
			}
			got, err := ln.Accept()
			if err != nil {
				t.Fatal(err)
			}
			want := src
			if !src.IsValid() {
				want = portolan.DefaultLink().Host().For(container)
			}
			if from := addrPort(got.RemoteAddr()); from != addrPort(conn.LocalAddr()) || from.Addr() != want {
				t.Errorf("container sees %s, want %s", from, want)
			}
			go func() {
				_, _ = io.Copy(got, got)
				_ = got.Close()
			}()
			checkEcho(t, conn)
			if err := conn.CloseWrite(); err != nil {
				t.Error(err)
			}
			if rest, err := io.ReadAll(conn); err != nil || len(rest) > 0 {
				t.Errorf("after the end: %q, %v", rest, err)
			}
			_ = conn.Close()
		}
		if _, err := d.DialTCP(t.Context(), client, netip.AddrPortFrom(container, 9)); !errors.Is(err, unix.ECONNREFUSED) {
			t.Errorf("dial a closed port: %v, want refused", err)
		}
	})
}

func TestDialTCPEndsWithContext(t *testing.T) {
	l := newLab(t)
	d := l.attach(t, &fakeHandler{})
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	began := time.Now()
	_, err := d.DialTCP(ctx, client4, netip.MustParseAddrPort("172.30.0.99:80")) // nobody there
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("dial: %v, want the context's end", err)
	}
	if took := time.Since(began); took > time.Second {
		t.Errorf("dial took %v", took)
	}
}

// listen listens in the container.
func (l *lab) listen(t *testing.T, addr netip.Addr, port uint16) net.Listener {
	t.Helper()
	var ln net.Listener
	l.container.do(t, func() error {
		var config net.ListenConfig
		var err error
		ln, err = config.Listen(t.Context(), "tcp", netip.AddrPortFrom(addr, port).String())
		return err
	})
	t.Cleanup(func() { _ = ln.Close() })
	return ln
}
