package socks

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/net/proxy"

	"github.com/portolan-net/portolan/internal/datapath"
)

func TestMain(m *testing.M) {
	// The relay's workers are for all flows of a process.
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("github.com/portolan-net/portolan/internal/poll.(*Loop).run"))
}

// shortListener lacks a descriptor for its first connection.
type shortListener struct {
	net.Listener
	failed atomic.Bool
}

func (l *shortListener) Accept() (net.Conn, error) {
	if !l.failed.Swap(true) {
		return nil, &net.OpError{Op: "accept", Err: syscall.EMFILE}
	}
	return l.Listener.Accept()
}

// A moment without descriptors does not end the server.
func TestServeGoesOn(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- Serve(ctx, &shortListener{Listener: ln}, Config{Log: slog.New(slog.DiscardHandler)}) }()
	if got := ask(t, ln.Addr().String(), []byte{version, 1, methodNone}); !bytes.HasPrefix(got, []byte{version, methodNone}) {
		t.Errorf("answer % x", got)
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

// start serves SOCKS for containers at 127.0.0.0/8, with the given names.
func start(t *testing.T, names map[string][]netip.Addr) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() {
		ended <- Serve(ctx, ln, Config{
			Dial: func(ctx context.Context, dst netip.AddrPort) (datapath.Conn, error) {
				conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", dst.String())
				if err != nil {
					return nil, err
				}
				return conn.(*net.TCPConn), nil
			},
			DialUDP: func(ctx context.Context, dst netip.AddrPort) (net.Conn, error) {
				return (&net.Dialer{}).DialContext(ctx, "udp", dst.String())
			},
			Lookup:  func(name string) []netip.Addr { return names[name] },
			Allowed: netip.Addr.IsLoopback,
			Ports:   &Ports{},
			Log:     slog.New(slog.DiscardHandler),
		})
	}()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	return ln.Addr().String()
}

// echoTCP answers one connection.
func echoTCP(t *testing.T) netip.AddrPort {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			_, _ = io.Copy(conn, conn)
			conn.Close()
		}
	}()
	t.Cleanup(func() { ln.Close(); <-ended })
	return addrPort(ln.Addr())
}

// An independent client gets through, by address and by name.
func TestConnect(t *testing.T) {
	echo := echoTCP(t)
	server := start(t, map[string][]netip.Addr{"web": {echo.Addr()}})
	dialer, err := proxy.SOCKS5("tcp", server, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, to := range []string{echo.String(), fmt.Sprintf("web:%d", echo.Port())} {
		conn, err := dialer.Dial("tcp", to)
		if err != nil {
			t.Fatalf("%s: %v", to, err)
		}
		fmt.Fprint(conn, "hello")
		_ = conn.(interface{ CloseWrite() error }).CloseWrite()
		if got, err := io.ReadAll(conn); err != nil || string(got) != "hello" {
			t.Errorf("%s: %q, %v", to, got, err)
		}
		conn.Close()
	}
}

// ask sends bytes and returns all that comes back before the end.
func ask(t *testing.T, server string, sent []byte) []byte {
	t.Helper()
	conn, err := net.Dial("tcp", server)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
	_, _ = conn.Write(sent)
	_ = conn.(*net.TCPConn).CloseWrite()
	got, _ := io.ReadAll(conn) // the server may reset what it does not read
	return got
}

func TestReplies(t *testing.T) {
	server := start(t, map[string][]netip.Addr{"outside": {netip.MustParseAddr("198.51.100.1")}})
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ln.Close()
	port := binary.BigEndian.AppendUint16(nil, addrPort(ln.Addr()).Port())
	hello := []byte{5, 1, 0}
	refusal := func(code byte) []byte { return []byte{5, 0, 5, code, 0, 1, 0, 0, 0, 0, 0, 0} }
	for _, c := range []struct {
		name string
		sent []byte
		want []byte
	}{
		{"SOCKS4", []byte{4, 1, 0, 80}, nil},
		{"a login", []byte{5, 1, 2}, []byte{5, 0xff}},
		{"not a container", append(hello, 5, 1, 0, 1, 198, 51, 100, 1, 0, 80), refusal(2)},
		{"a name of something else", append(append(hello, 5, 1, 0, 3, 7), "outside\x00\x50"...), refusal(2)},
		{"an unknown name", append(append(hello, 5, 1, 0, 3, 6), "nobody\x00\x50"...), refusal(4)},
		{"refused", append(append(hello, 5, 1, 0, 1, 127, 0, 0, 1), port...), refusal(5)},
		{"mapped", append(append(append(hello, 5, 1, 0, 4), netip.MustParseAddr("::ffff:198.51.100.1").AsSlice()...), 0, 80), refusal(2)},
		{"BIND", append(hello, 5, 2, 0, 1, 127, 0, 0, 1, 0, 80), refusal(7)},
		{"an address type", append(hello, 5, 1, 0, 9, 1, 2, 3), refusal(8)},
		{"half a request", append(hello, 5, 1, 0, 1, 127), []byte{5, 0}},
	} {
		if got := ask(t, server, bytes.Clone(c.sent)); !bytes.Equal(got, c.want) {
			t.Errorf("%s: %v, want %v", c.name, got, c.want)
		}
	}
}

func TestAssociate(t *testing.T) {
	echo, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		buf := make([]byte, 65536)
		for {
			n, from, err := echo.ReadFrom(buf)
			if err != nil {
				return
			}
			_, _ = echo.WriteTo(buf[:n], from)
		}
	}()
	defer func() { echo.Close(); <-ended }()
	at := addrPort(echo.LocalAddr())
	server := start(t, map[string][]netip.Addr{"udp": {at.Addr()}})
	control, err := net.Dial("tcp", server)
	if err != nil {
		t.Fatal(err)
	}
	defer control.Close()
	_, _ = control.Write([]byte{5, 1, 0, 5, 3, 0, 1, 0, 0, 0, 0, 0, 0})
	answer := make([]byte, 12)
	if _, err := io.ReadFull(control, answer); err != nil || answer[3] != replyOK {
		t.Fatalf("%v, %v", answer, err)
	}
	relay, err := readTarget(bytes.NewReader(answer[5:]))
	if err != nil {
		t.Fatal(err)
	}
	client, err := net.Dial("udp", netip.AddrPortFrom(relay.addr, relay.port).String())
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	header := appendAddr([]byte{0, 0, 0}, at)
	named := binary.BigEndian.AppendUint16(append([]byte{0, 0, 0, 3, 3}, "udp"...), at.Port())
	stranger, err := net.Dial("udp", client.RemoteAddr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer stranger.Close()
	_, _ = client.Write(append(appendAddr([]byte{0, 0, 0}, netip.MustParseAddrPort("198.51.100.1:7")), "not allowed"...))
	_, _ = client.Write(append(bytes.Clone([]byte{0, 0, 1}), header[3:]...)) // a fragment
	large := bytes.Repeat([]byte("x"), 60000)
	for _, sent := range [][]byte{append(bytes.Clone(header), "by address"...), append(named, "by name"...), append(bytes.Clone(header), large...)} {
		_, _ = stranger.Write(append(bytes.Clone(header), "not mine"...))
		if _, err := client.Write(sent); err != nil {
			t.Fatal(err)
		}
		_, payload, err := parseDatagram(sent)
		if err != nil {
			t.Fatal(err)
		}
		_ = client.SetReadDeadline(time.Now().Add(10 * time.Second))
		buf := make([]byte, 65536)
		n, err := client.Read(buf)
		if err != nil || !bytes.Equal(buf[:n], append(bytes.Clone(header), payload...)) {
			t.Fatalf("sent %.30q, got %.30q, %v", payload, buf[:n], err)
		}
	}
	control.Close()
	time.Sleep(10 * time.Millisecond)
	_ = client.SetDeadline(time.Now().Add(5 * time.Second))
	for range 100 { // until the socket has gone, which ICMP tells
		if _, err = client.Write(header); err == nil {
			_ = client.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
			_, err = client.Read(make([]byte, 100))
		}
		if err != nil && !isTimeout(err) {
			return
		}
	}
	t.Errorf("datagrams pass after the end: %v", err)
}

func isTimeout(err error) bool {
	timeout, ok := err.(net.Error)
	return ok && timeout.Timeout()
}

// Whatever is sent, a target reads the same when written again.
func FuzzDatagram(f *testing.F) {
	f.Add([]byte{0, 0, 0, 1, 127, 0, 0, 1, 0, 53, 'x'})
	f.Add([]byte{0, 0, 0, 3, 3, 'w', 'e', 'b', 0, 53})
	f.Add([]byte{0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 127, 0, 0, 1, 0, 53})
	f.Fuzz(func(t *testing.T, b []byte) {
		to, payload, err := parseDatagram(b)
		if err != nil {
			return
		}
		if !bytes.HasSuffix(b, payload) || to.addr.Is4In6() || to.addr.IsValid() == (to.name != "") && to.name != "" {
			t.Errorf("%v is %+v with %q", b, to, payload)
		}
		if to.addr.IsValid() {
			again, rest, err := parseDatagram(append(appendAddr([]byte{0, 0, 0}, netip.AddrPortFrom(to.addr, to.port)), payload...))
			if err != nil || again.addr != to.addr || again.port != to.port || !bytes.Equal(rest, payload) {
				t.Errorf("%+v reads as %+v, %v", to, again, err)
			}
		}
	})
}

// A request is read to its end and no further: what follows is the stream's.
func FuzzRequest(f *testing.F) {
	f.Add([]byte{5, 1, 0, 5, 1, 0, 1, 127, 0, 0, 1, 0, 80, 'd', 'a', 't', 'a'})
	f.Add([]byte{5, 2, 0, 2, 5, 3, 0, 3, 1, 'x', 0, 80})
	f.Fuzz(func(t *testing.T, b []byte) {
		r := bytes.NewReader(b)
		if plain, err := readGreeting(r); err != nil || !plain {
			return
		}
		at := len(b) - r.Len()
		_, to, err := readRequest(r)
		if err != nil {
			return
		}
		size := 3 + 1 + 2
		switch b[at+3] {
		case typeV4:
			size += 4
		case typeV6:
			size += 16
		case typeName:
			size += 1 + int(b[at+4])
		}
		if used := len(b) - r.Len() - at; used != size {
			t.Errorf("%+v took %d bytes, want %d", to, used, size)
		}
	})
}
