package dns

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"syscall"
	"time"

	miekg "github.com/miekg/dns"
)

// resendAfter: a datagram may be lost, and the client's own second try comes after
// silence has ended the query.
const resendAfter = 700 * time.Millisecond

var errBusy = errors.New("too many queries are on their way to the host's resolvers")

// ask sends q to one server and returns its answer. The query goes with an id of
// its own from a socket of its own, whose port the kernel draws (RFC 5452); an
// answer counts only if it comes from that server with that id and question.
func (f *forwarder) ask(ctx context.Context, server netip.AddrPort, how transport, q *query) ([]byte, error) {
	select {
	case f.asking <- struct{}{}:
		defer func() { <-f.asking }()
	default:
		return nil, errBusy
	}
	network := "udp"
	if how == overTCP {
		network = "tcp"
	}
	conn, err := f.dialer.DialContext(ctx, network, server.String())
	if err != nil {
		return nil, fmt.Errorf("ask resolver %s: %w", server, err)
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })()

	buf := f.buffers.Get().(*[maxMessage]byte)
	defer f.buffers.Put(buf)
	msg := append(make([]byte, 0, len(q.raw)), q.raw...)
	_, _ = rand.Read(msg[:2]) // never fails, says crypto/rand
	var n int
	if how == overTCP {
		n, err = askTCP(conn, msg, q, buf[:])
	} else {
		n, err = askUDP(ctx, conn, msg, q, buf[:])
	}
	if err != nil {
		return nil, fmt.Errorf("ask resolver %s over %s: %w", server, network, err)
	}
	return append([]byte(nil), buf[:n]...), nil
}

// askUDP waits for the answer on a connected socket, so that the kernel drops what
// comes from elsewhere. msg is sent a second time after resendAfter.
func askUDP(ctx context.Context, conn net.Conn, msg []byte, q *query, buf []byte) (int, error) {
	again := time.Now().Add(resendAfter)
	for {
		if _, err := conn.Write(msg); err != nil {
			return 0, err
		}
		if err := conn.SetReadDeadline(again); err != nil {
			return 0, err
		}
		if err := ctx.Err(); err != nil {
			return 0, err // it ended before the deadline was set
		}
		n, err := readAnswer(conn, msg, q, buf)
		if !errors.Is(err, os.ErrDeadlineExceeded) || ctx.Err() != nil {
			return n, err
		}
		again, _ = ctx.Deadline()
	}
}

// readAnswer reads datagrams until one is the answer.
func readAnswer(conn net.Conn, msg []byte, q *query, buf []byte) (int, error) {
	for {
		n, err := conn.Read(buf)
		if errors.Is(err, syscall.EMSGSIZE) {
			continue // the path's MTU has become known: the second try goes in fragments
		}
		if err != nil {
			return 0, err
		}
		if answers(buf[:n], msg, q) {
			return n, nil
		}
	}
}

func askTCP(conn net.Conn, msg []byte, q *query, buf []byte) (int, error) {
	if err := writeMessage(conn, msg); err != nil {
		return 0, err
	}
	n, err := readMessage(conn, buf)
	if err != nil {
		return 0, err
	}
	if !answers(buf[:n], msg, q) {
		return 0, errors.New("the answer is for another question")
	}
	return n, nil
}

// answers reports whether answer belongs to msg, the query q with its id on the
// way. The question may come back in other letter case; a server that could not
// even read the question may leave it out.
func answers(answer, msg []byte, q *query) bool {
	if len(answer) < headerSize || answer[2]&flagQR == 0 || !bytes.Equal(answer[:2], msg[:2]) {
		return false
	}
	if count(answer, 0) == 0 {
		switch answer[3] & 0xf {
		case miekg.RcodeFormatError, miekg.RcodeServerFailure, miekg.RcodeNotImplemented, miekg.RcodeRefused:
			return true
		}
		return false
	}
	if count(answer, 0) != 1 || len(answer) < q.questionEnd {
		return false
	}
	name := q.questionEnd - questionRR
	return equalFold(answer[headerSize:name], msg[headerSize:name]) &&
		bytes.Equal(answer[name:q.questionEnd], msg[name:q.questionEnd])
}

// equalFold compares names on the wire: ASCII letters only (RFC 4343). Length
// bytes are below 64 and so no letters.
func equalFold(a, b []byte) bool {
	for i := range a {
		if lower(a[i]) != lower(b[i]) {
			return false
		}
	}
	return true
}

func lower(c byte) byte {
	if 'A' <= c && c <= 'Z' {
		return c + 'a' - 'A'
	}
	return c
}

// writeMessage writes msg with its length in front, in one piece (RFC 7766
// section 8).
func writeMessage(w io.Writer, msg []byte) error {
	if len(msg) > maxMessage {
		return fmt.Errorf("write message of %d bytes: too long", len(msg))
	}
	framed := binary.BigEndian.AppendUint16(make([]byte, 0, 2+len(msg)), uint16(len(msg)))
	_, err := w.Write(append(framed, msg...))
	return err
}

// readMessage reads one message into buf, which has room for maxMessage bytes.
func readMessage(r io.Reader, buf []byte) (int, error) {
	var length [2]byte
	if _, err := io.ReadFull(r, length[:]); err != nil {
		return 0, err
	}
	return io.ReadFull(r, buf[:binary.BigEndian.Uint16(length[:])])
}
