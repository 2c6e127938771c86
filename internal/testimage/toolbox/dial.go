//go:build linux

package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"time"

	"github.com/portolan-net/portolan/internal/testimage"
)

// dial connects and says how that ended. With UDP it sends a datagram, and
// "connected" means that any answer came.
func dial(ctx context.Context, args []string, r *testimage.Result) error {
	flags := newFlags("dial")
	from := flags.String("from", "", "own IP or IP:PORT")
	send := flags.Int("send", 0, "bytes to send once connected (UDP: at least 1)")
	expectEcho := flags.Bool("expect-echo", false, "wait for the same bytes")
	timeout := flags.Duration("timeout", 10*time.Second, "for all of it")
	positional := parse(flags, args, 2, 2)
	network, addr := positional[0], positional[1]
	if network != "tcp" && network != "udp" {
		return fmt.Errorf("network %q: want tcp or udp", network)
	}
	conn, err := open(ctx, network, addr, *from, *timeout, r)
	if err != nil {
		return err
	}
	defer conn.Close()

	if network == "udp" {
		return exchangeDatagram(conn, max(*send, 1), *expectEcho, r)
	}
	if *send > 0 || *expectEcho {
		if err := exchangeStream(conn, *send, *expectEcho, r); err != nil {
			return err
		}
	}
	r.Outcome = testimage.Connected
	return nil
}

// open dials and notes both addresses. timeout holds for what follows, too.
func open(ctx context.Context, network, addr, from string, timeout time.Duration, r *testimage.Result) (net.Conn, error) {
	deadline := time.Now().Add(timeout)
	ctx, cancel := context.WithDeadline(ctx, deadline)
	defer cancel()
	d, err := dialer(network, from)
	if err != nil {
		return nil, err
	}
	conn, err := d.DialContext(ctx, network, addr)
	if err != nil {
		return nil, err
	}
	r.Local, r.Remote = conn.LocalAddr().String(), conn.RemoteAddr().String()
	if err := conn.SetDeadline(deadline); err != nil {
		conn.Close()
		return nil, err
	}
	return conn, nil
}

// openTCP is open for commands which need what only TCP has.
func openTCP(ctx context.Context, addr string, timeout time.Duration, r *testimage.Result) (*net.TCPConn, error) {
	conn, err := open(ctx, "tcp", addr, "", timeout, r)
	if err != nil {
		return nil, err
	}
	tcp, ok := conn.(*net.TCPConn)
	if !ok {
		conn.Close()
		return nil, fmt.Errorf("dial %s: not a TCP connection", addr)
	}
	return tcp, nil
}

// payload is the first n bytes of the test stream.
func payload(n int) []byte {
	data := make([]byte, n)
	_, _ = io.ReadFull(testimage.Stream(), data) // never ends
	return data
}

// exchangeStream sends n bytes and, when wanted, reads them back.
func exchangeStream(conn net.Conn, n int, expectEcho bool, r *testimage.Result) error {
	sent := payload(n)
	if _, err := conn.Write(sent); err != nil {
		return err
	}
	r.Bytes = int64(n)
	if !expectEcho {
		return nil
	}
	got := make([]byte, max(n, 1)) // with nothing sent, whatever the server says
	if _, err := io.ReadFull(conn, got); err != nil {
		return err
	}
	if n > 0 && !bytes.Equal(sent, got) {
		return errMismatch
	}
	return nil
}

// exchangeDatagram sends n bytes and waits for an answer.
func exchangeDatagram(conn net.Conn, n int, expectEcho bool, r *testimage.Result) error {
	sent := payload(n)
	if _, err := conn.Write(sent); err != nil {
		return err
	}
	got := make([]byte, 1<<16)
	n, err := conn.Read(got)
	if err != nil {
		return err
	}
	got = got[:n]
	r.Bytes = int64(n)
	if expectEcho && !bytes.Equal(sent, got) {
		return errMismatch
	}
	if !bytes.Equal(sent, got) {
		r.Body = string(got)
	}
	r.Outcome = testimage.Connected
	return nil
}

// udpSend sends one datagram, of any size that UDP carries, and wants it back whole.
func udpSend(ctx context.Context, args []string, r *testimage.Result) error {
	flags := newFlags("udp-send")
	size := flags.Int("size", 100, "payload bytes, 65507 at most")
	timeout := flags.Duration("timeout", 5*time.Second, "for the echo")
	from := flags.String("from", "", "own IP or IP:PORT")
	addr := parse(flags, args, 1, 1)[0]
	conn, err := open(ctx, "udp", addr, *from, *timeout, r)
	if err != nil {
		return err
	}
	defer conn.Close()
	if err := exchangeDatagram(conn, *size, true, r); err != nil {
		return err
	}
	r.Outcome = testimage.OK
	return nil
}
