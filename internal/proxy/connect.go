package proxy

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"unicode"
)

// maxHead bounds a proxy's answer to CONNECT.
const maxHead = 64 << 10

// connectHTTP asks for a tunnel (RFC 9110, section 9.3.6). The connection that
// it returns is the one it was given, unless the other side has spoken already.
func connectHTTP(conn net.Conn, r Route, to Destination) (net.Conn, error) {
	var request bytes.Buffer
	if strings.ContainsAny(to.Host, " \r\n\t/?#@") {
		return nil, fmt.Errorf("host %q is no name", to.Host)
	}
	fmt.Fprintf(&request, "CONNECT %s HTTP/1.1\r\nHost: %s\r\n", to.Address(), to.Address())
	if secret := r.Authorization(); secret != "" {
		fmt.Fprintf(&request, "Proxy-Authorization: %s\r\n", secret)
	}
	request.WriteString("\r\n")
	if _, err := conn.Write(request.Bytes()); err != nil {
		return nil, err
	}
	reader := bufio.NewReader(io.LimitReader(conn, maxHead))
	// Bodies stay open: a tunnel has none, and to close that of a refusal would wait
	// for the rest of it.
	response, err := http.ReadResponse(reader, &http.Request{Method: http.MethodConnect}) //nolint:bodyclose // see above
	for err == nil && response.StatusCode >= 100 && response.StatusCode < 200 {
		response, err = http.ReadResponse(reader, &http.Request{Method: http.MethodConnect}) //nolint:bodyclose // see above
	}
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return nil, errors.New("it closed the connection without an answer to CONNECT")
	}
	if err != nil {
		return nil, fmt.Errorf("read answer to CONNECT: %w", err)
	}
	if response.StatusCode/100 != 2 {
		return nil, &RefusedError{Route: r, Code: response.StatusCode, Status: printable(response.Status)}
	}
	if reader.Buffered() == 0 {
		return conn, nil
	}
	return &early{Conn: conn, rest: reader}, nil
}

// printable keeps a stranger's text to one short line.
func printable(text string) string {
	const longest = 200
	text = strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return -1
	}, text)
	if len(text) > longest {
		text = strings.ToValidUTF8(text[:longest], "") + "..."
	}
	return text
}
