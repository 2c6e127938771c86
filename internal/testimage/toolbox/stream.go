//go:build linux

package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"time"

	"github.com/portolan-net/portolan/internal/testimage"
)

// bulkWrite is how much a stream's sender writes at a time: as much as the kernel
// makes one packet of.
const bulkWrite = 1 << 18

// streamSend sends the test stream and FIN. The receiver answers with the
// digest of what came, which must be that of what left.
func streamSend(ctx context.Context, args []string, r *testimage.Result) error {
	flags := newFlags("stream-send")
	n := flags.Int64("bytes", 1<<20, "how many")
	listen := flags.Bool("listen", false, "wait for the receiver at ADDR instead of dialling it")
	timeout := flags.Duration("timeout", 10*time.Minute, "for all of it")
	addr := parse(flags, args, 1, 1)[0]
	conn, err := meet(ctx, addr, *listen, *timeout, r)
	if err != nil {
		return err
	}
	defer conn.Close()

	sum, gathered := sha256.New(), bufio.NewWriterSize(conn, bulkWrite)
	r.Bytes, err = io.CopyN(io.MultiWriter(gathered, sum), testimage.Stream(), *n)
	r.SHA256 = hex.EncodeToString(sum.Sum(nil))
	if err := errors.Join(err, gathered.Flush()); err != nil {
		return err
	}
	if err := conn.CloseWrite(); err != nil {
		return err
	}
	answer, err := io.ReadAll(conn)
	if err != nil {
		return err
	}
	if string(answer) != r.SHA256 {
		return fmt.Errorf("%w: the receiver's digest is %q", errMismatch, answer)
	}
	return nil
}

// streamRecv receives until FIN and answers with the digest.
func streamRecv(ctx context.Context, args []string, r *testimage.Result) error {
	flags := newFlags("stream-recv")
	listen := flags.Bool("listen", false, "wait for the sender at ADDR instead of dialling it")
	timeout := flags.Duration("timeout", 10*time.Minute, "for all of it")
	addr := parse(flags, args, 1, 1)[0]
	conn, err := meet(ctx, addr, *listen, *timeout, r)
	if err != nil {
		return err
	}
	defer conn.Close()

	sum := sha256.New()
	r.Bytes, err = io.CopyBuffer(sum, onlyReader{conn}, make([]byte, 1<<18))
	r.SHA256 = hex.EncodeToString(sum.Sum(nil))
	if err != nil {
		return err
	}
	_, err = io.WriteString(conn, r.SHA256)
	return err
}

// onlyReader hides WriteTo, which would choose a buffer of its own.
type onlyReader struct{ io.Reader }

// meet dials addr, or waits there for one connection.
func meet(ctx context.Context, addr string, listen bool, timeout time.Duration, r *testimage.Result) (*net.TCPConn, error) {
	if !listen {
		return openTCP(ctx, addr, timeout, r)
	}
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", addr)
	if err != nil {
		return nil, err
	}
	defer listener.Close()
	announce(r.Command, listener.Addr())
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	defer context.AfterFunc(ctx, func() { _ = listener.Close() })()
	conn, err := listener.Accept()
	if err != nil {
		return nil, fmt.Errorf("wait at %s: %w", addr, context.Cause(ctx))
	}
	r.Local, r.Remote = conn.LocalAddr().String(), conn.RemoteAddr().String()
	tcp, _ := conn.(*net.TCPConn)
	return tcp, tcp.SetDeadline(time.Now().Add(timeout))
}

// halfClose ends its own direction first; the echo must come all the same, and then FIN.
func halfClose(ctx context.Context, args []string, r *testimage.Result) error {
	flags := newFlags("half-close")
	n := flags.Int("send", 16, "bytes")
	timeout := flags.Duration("timeout", 10*time.Second, "for all of it")
	conn, err := openTCP(ctx, parse(flags, args, 1, 1)[0], *timeout, r)
	if err != nil {
		return err
	}
	defer conn.Close()
	sent := payload(*n)
	if _, err := conn.Write(sent); err != nil {
		return err
	}
	if err := conn.CloseWrite(); err != nil {
		return err
	}
	got, err := io.ReadAll(conn)
	r.Bytes = int64(len(got))
	if err != nil {
		return err
	}
	if !bytes.Equal(sent, got) {
		return errMismatch
	}
	return nil
}

// rst resets an established connection: with SO_LINGER 0, close sends RST.
func rst(ctx context.Context, args []string, r *testimage.Result) error {
	flags := newFlags("rst")
	n := flags.Int("send", 1, "bytes to send and get back first; 0: reset at once")
	timeout := flags.Duration("timeout", 10*time.Second, "for all of it")
	conn, err := openTCP(ctx, parse(flags, args, 1, 1)[0], *timeout, r)
	if err != nil {
		return err
	}
	defer conn.Close()
	if *n > 0 {
		if err := exchangeStream(conn, *n, true, r); err != nil {
			return err
		}
	}
	return conn.SetLinger(0)
}
