//go:build linux

package forward

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"syscall"
	"testing"
	"time"

	"github.com/portolan-net/portolan/internal/datapath"
	"github.com/portolan-net/portolan/internal/scarce"
)

// startTCP forwards to dest, after tune, and returns the address that clients dial.
func startTCP(t *testing.T, dest string, tune ...func(*TCP)) string {
	t.Helper()
	l := listenTCP(t, "127.0.0.1:0")
	server := &TCP{Listener: l, Relay: relayTCP, Log: logger(t),
		Dial: Waiting(func(ctx context.Context, _ netip.AddrPort) (datapath.Conn, error) {
			var d net.Dialer
			c, err := d.DialContext(ctx, "tcp", dest)
			if err != nil {
				return nil, err
			}
			return c.(*net.TCPConn), nil
		})}
	for _, set := range tune {
		set(server)
	}
	serve(t, server.Serve)
	return l.Addr().String()
}

func dialTCP(t *testing.T, address string) *net.TCPConn {
	t.Helper()
	d := net.Dialer{Timeout: limit}
	c, err := d.DialContext(t.Context(), "tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	_ = c.SetDeadline(time.Now().Add(limit))
	return c.(*net.TCPConn)
}

func TestTCPHalfClose(t *testing.T) {
	checkDescriptors(t)
	dest := listenTCP(t, "127.0.0.1:0")
	go func() {
		c, err := dest.Accept()
		if err != nil {
			return
		}
		defer func() { _ = c.Close() }()
		all, _ := io.ReadAll(c) // until the client's FIN
		_, _ = c.Write(append([]byte("got "), all...))
	}()
	c := dialTCP(t, startTCP(t, dest.Addr().String()))
	if _, err := c.Write([]byte("request")); err != nil {
		t.Fatal(err)
	}
	if err := c.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	got, err := io.ReadAll(c)
	if err != nil || string(got) != "got request" {
		t.Errorf("answer after half-close = %q, %v", got, err)
	}
}

func TestTCPRefusedDestinationResetsClient(t *testing.T) {
	checkDescriptors(t)
	dest := listenTCP(t, "127.0.0.1:0")
	_ = dest.Close()
	address := startTCP(t, dest.Addr().String())
	d := net.Dialer{Timeout: limit}
	c, err := d.DialContext(t.Context(), "tcp", address)
	if err == nil { // else the reset was there before connect returned
		defer func() { _ = c.Close() }()
		_ = c.SetDeadline(time.Now().Add(limit))
		_, err = c.Read(make([]byte, 1))
	}
	if !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("client sees %v, want a reset", err)
	}
}

func TestTCPEndOfContextEndsConnections(t *testing.T) {
	checkDescriptors(t)
	dest := listenTCP(t, "127.0.0.1:0")
	l := listenTCP(t, "127.0.0.1:0")
	related := make(chan struct{})
	server := &TCP{Listener: l, Log: logger(t),
		Relay: func(ctx context.Context, a, b datapath.Conn, done func()) { close(related); relayTCP(ctx, a, b, done) },
		Dial: Waiting(func(ctx context.Context, _ netip.AddrPort) (datapath.Conn, error) {
			var d net.Dialer
			c, err := d.DialContext(ctx, "tcp", dest.Addr().String())
			if err != nil {
				return nil, err
			}
			return c.(*net.TCPConn), nil
		})}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- server.Serve(ctx) }()
	c := dialTCP(t, l.Addr().String())
	<-related
	cancel()
	select {
	case err := <-done:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(limit):
		t.Fatal("Serve does not return")
	}
	if _, err := c.Read(make([]byte, 1)); err == nil {
		t.Error("the connection goes on")
	}
}

// A closed listener leaves what it accepted alone.
func TestTCPConnectionsOutliveListener(t *testing.T) {
	checkDescriptors(t)
	dest := listenTCP(t, "127.0.0.1:0")
	go func() {
		c, err := dest.Accept()
		if err != nil {
			return
		}
		defer func() { _ = c.Close() }()
		_, _ = io.Copy(c, c)
	}()
	l := listenTCP(t, "127.0.0.1:0")
	server := &TCP{Listener: l, Relay: relayTCP, Log: logger(t),
		Dial: Waiting(func(ctx context.Context, _ netip.AddrPort) (datapath.Conn, error) {
			return net.DialTCP("tcp", nil, dest.Addr().(*net.TCPAddr))
		})}
	serve(t, server.Serve)
	c := dialTCP(t, l.Addr().String())
	echo(t, c, "before")
	if err := server.Close(); err != nil {
		t.Error(err)
	}
	if err := server.Close(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("closed twice: %v", err)
	}
	listenTCP(t, l.Addr().String()) // the port is free
	echo(t, c, "after")
}

func echo(t *testing.T, c net.Conn, text string) {
	t.Helper()
	if _, err := io.WriteString(c, text); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, len(text))
	if _, err := io.ReadFull(c, got); err != nil || string(got) != text {
		t.Fatalf("echo of %q = %q, %v", text, got, err)
	}
}

// Without descriptors accept waits; with some it goes on.
func TestTCPAcceptSurvivesLackOfDescriptors(t *testing.T) {
	checkDescriptors(t)
	dest := listenTCP(t, "127.0.0.1:0")
	l := listenTCP(t, "127.0.0.1:0")
	address := l.Addr().String()
	warned := make(chan struct{}, 1)
	server := &TCP{Listener: l, Relay: relayTCP, Log: slog.New(warnHandler{slog.DiscardHandler, warned}),
		Dial: Waiting(func(context.Context, netip.AddrPort) (datapath.Conn, error) {
			return net.DialTCP("tcp", nil, dest.Addr().(*net.TCPAddr))
		})}
	serve(t, server.Serve)

	var was syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &was); err != nil {
		t.Fatal(err)
	}
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = syscall.Close(fd) }()
	lowest, err := syscall.Dup(fd)
	if err != nil {
		t.Fatal(err)
	}
	_ = syscall.Close(lowest)
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &syscall.Rlimit{Cur: uint64(lowest), Max: was.Max}); err != nil {
		t.Fatal(err)
	}
	restore := func() { _ = syscall.Setrlimit(syscall.RLIMIT_NOFILE, &was) }
	defer restore()
	ap := netip.MustParseAddrPort(address)
	if err := syscall.Connect(fd, &syscall.SockaddrInet4{Addr: ap.Addr().As4(), Port: int(ap.Port())}); err != nil {
		t.Fatal(err)
	}
	select {
	case <-warned:
	case <-time.After(limit):
		t.Fatal("accept does not notice that no descriptor is free")
	}
	restore()
	_ = dest.SetDeadline(time.Now().Add(limit))
	c, err := dest.Accept()
	if err != nil {
		t.Fatalf("after the lack of descriptors: %v", err)
	}
	_ = c.Close()
}

// warnHandler tells of the first record.
type warnHandler struct {
	slog.Handler
	warned chan struct{}
}

func (h warnHandler) Enabled(context.Context, slog.Level) bool { return true }

func (h warnHandler) Handle(context.Context, slog.Record) error {
	select {
	case h.warned <- struct{}{}:
	default:
	}
	return nil
}

// Connections beyond a client's places are reset; others are let in, and the same
// client again when one of its connections has ended.
func TestTCPPlaces(t *testing.T) {
	checkDescriptors(t)
	dest := listenTCP(t, "127.0.0.1:0")
	go func() {
		for {
			c, err := dest.Accept()
			if err != nil {
				return
			}
			go func() {
				_, _ = io.Copy(c, c)
				_ = c.Close()
			}()
		}
	}()
	places := scarce.NewLimit(scarce.Bounds{Source: 2}, nil)
	address := startTCP(t, dest.Addr().String(), func(s *TCP) { s.Places = places })
	try := func(from string) (*net.TCPConn, error) {
		d := net.Dialer{Timeout: limit, LocalAddr: net.TCPAddrFromAddrPort(netip.MustParseAddrPort(from + ":0"))}
		c, err := d.DialContext(t.Context(), "tcp", address)
		if err != nil {
			return nil, err
		}
		t.Cleanup(func() { _ = c.Close() })
		_ = c.SetDeadline(time.Now().Add(limit))
		if _, err := c.Write([]byte("x")); err != nil {
			return nil, err
		}
		_, err = c.Read(make([]byte, 1))
		return c.(*net.TCPConn), err
	}
	first, err := try("127.0.0.2")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := try("127.0.0.2"); err != nil {
		t.Fatal(err)
	}
	if _, err := try("127.0.0.2"); !errors.Is(err, syscall.ECONNRESET) && !errors.Is(err, syscall.EPIPE) {
		t.Errorf("a third connection of one client ends with %v, want a reset", err)
	}
	if _, err := try("127.0.0.3"); err != nil {
		t.Errorf("another client: %v", err)
	}
	_ = first.Close()
	for end := time.Now().Add(limit); places.Held() > 2 && time.Now().Before(end); {
		time.Sleep(time.Millisecond)
	}
	if _, err := try("127.0.0.2"); err != nil {
		t.Errorf("the first client, after one of its connections has ended: %v", err)
	}
}

func TestHolder(t *testing.T) {
	for client, want := range map[string]string{
		"203.0.113.7": "203.0.113.7", "2001:db8:1:2:3::4": "2001:db8:1:2::", "fe80::1%eth9": "fe80::",
	} {
		if got := holder(netip.MustParseAddr(client)); got.String() != want {
			t.Errorf("places of %s are held by %s, want %s", client, got, want)
		}
	}
}
