package server

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"slices"
	"time"

	"github.com/portolan-net/portolan/internal/datapath"
)

// How long the first bytes of a transparent flow are waited for.
const (
	// clientFirst is for the ports whose clients always speak first.
	clientFirst = 10 * time.Second
	// eitherFirst is for the others: where the server speaks first (SMTP, MySQL)
	// this is what each connection takes longer.
	eitherFirst = 300 * time.Millisecond
	// wholeHead is for the rest, once a TLS or HTTP head has begun.
	wholeHead = 5 * time.Second
)

// maxPeek is more than a ClientHello has with post-quantum keys, and what
// servers take of an HTTP head.
const maxPeek = 64 << 10

// dialect is what a client speaks.
type dialect uint8

const (
	speaksSomething dialect = iota
	speaksPlainHTTP
	speaksTLS
)

// opening is what a client said first. Without a name the address counts.
type opening struct {
	bytes []byte
	kind  dialect
	name  string
}

// peek reads a client's first bytes: nothing when it waits for the server, a
// TLS ClientHello or an HTTP head whole, otherwise what came first.
func peek(ctx context.Context, conn datapath.Conn, port uint16) (opening, error) {
	defer context.AfterFunc(ctx, func() { _ = conn.SetReadDeadline(time.Unix(1, 0)) })()
	wait := eitherFirst
	if port == 80 || port == 443 {
		wait = clientFirst
	}
	deadline := time.Now().Add(wait)
	var first opening
	buf := make([]byte, 0, 4096)
	for {
		if err := conn.SetReadDeadline(deadline); err != nil {
			return first, err
		}
		buf = slices.Grow(buf, 4096)
		n, err := conn.Read(buf[len(buf):cap(buf)])
		buf = buf[:len(buf)+n]
		var whole bool
		first, whole = parseOpening(buf)
		switch {
		case ctx.Err() != nil:
			return first, ctx.Err()
		case errors.Is(err, os.ErrDeadlineExceeded), errors.Is(err, io.EOF), err == nil && (whole || len(buf) >= maxPeek):
			return first, conn.SetReadDeadline(time.Time{}) // an end is the relay's to pass on
		case err != nil:
			return first, fmt.Errorf("read first bytes: %w", err)
		}
		if len(buf) == n {
			deadline = time.Now().Add(wholeHead)
		}
	}
}

// parseOpening looks at what a client has sent so far; whole tells that more
// bytes would not change the finding.
func parseOpening(sent []byte) (first opening, whole bool) {
	first.bytes = sent
	switch {
	case len(sent) == 0:
		return first, false
	case sent[0] == 0x16: // a TLS handshake record (RFC 8446, section 5.1)
		first.kind = speaksTLS
		first.name, whole = serverName(sent)
		return first, whole
	case beginsHTTP(sent):
		first.name, first.kind, whole = hostName(sent)
		return first, whole
	}
	return first, true
}

// beginsHTTP reports a method, or the beginning of one.
func beginsHTTP(sent []byte) bool {
	const longest = 20
	for i, b := range sent[:min(len(sent), longest)] {
		if b == ' ' {
			return i > 0
		}
		if b < 'A' || b > 'Z' {
			return false
		}
	}
	return len(sent) < longest
}

// hostName reads an HTTP/1 head. HTTP/2 without TLS ("PRI * HTTP/2.0") has its
// name in a compressed frame: the address counts.
func hostName(sent []byte) (name string, kind dialect, whole bool) {
	end := bytes.Index(sent, []byte("\r\n\r\n"))
	if end < 0 {
		return "", speaksSomething, bytes.Contains(sent, []byte("\n\n"))
	}
	r, err := http.ReadRequest(bufio.NewReader(bytes.NewReader(sent[:end+4])))
	if err != nil || r.ProtoMajor != 1 {
		return "", speaksSomething, true
	}
	if r.Method == http.MethodConnect || r.URL.IsAbs() { // meant for a proxy at that address
		return "", speaksPlainHTTP, true
	}
	if to, err := parseTarget(r.Host, 80); err == nil {
		name = to.Host
	}
	return onlyName(name), speaksPlainHTTP, true
}

// extensionECH is encrypted_client_hello (RFC 9849): the name that shows is not
// the one that is meant.
const extensionECH = 0xfe0d

// errSeen ends a handshake that nobody wants to finish; errMore one whose
// ClientHello is not whole yet.
var (
	errSeen = errors.New("ClientHello seen")
	errMore = errors.New("ClientHello goes on")
)

// serverName reads the name of a ClientHello (RFC 6066, section 3), which may
// come in several records and segments. It lets crypto/tls parse.
func serverName(sent []byte) (name string, whole bool) {
	replay := &replayConn{left: bytes.NewReader(sent)}
	cfg := &tls.Config{GetConfigForClient: func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
		if host, err := parseHost(hello.ServerName); err == nil && !slices.Contains(hello.Extensions, extensionECH) {
			name = onlyName(host)
		}
		return nil, errSeen
	}}
	err := tls.Server(replay, cfg).Handshake() //nolint:noctx // it waits for nothing
	return name, !errors.Is(err, errMore)
}

// onlyName empties addresses: the one that the client connected to counts.
func onlyName(host string) string {
	if isAddress(host) {
		return ""
	}
	return host
}

// replayConn is a connection from which what was sent is read again, and nothing
// else. Only Read and Write are used.
type replayConn struct {
	net.Conn
	left *bytes.Reader
}

// Read returns what is left.
func (c *replayConn) Read(p []byte) (int, error) {
	if c.left.Len() == 0 {
		return 0, errMore
	}
	return c.left.Read(p)
}

// Write drops the alert that ends the handshake.
func (c *replayConn) Write(p []byte) (int, error) { return len(p), nil }
