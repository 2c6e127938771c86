package proxy

import (
	"bufio"
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
func (d *Dialer) connectHTTP(conn net.Conn, r Route, to Destination) (net.Conn, error) {
	if strings.ContainsAny(to.Host, " \r\n\t/?#@") {
		return nil, fmt.Errorf("host %q is no name", to.Host)
	}
	secret, limited := r.Authorization(), &io.LimitedReader{R: conn, N: maxHead}
	reader := bufio.NewReader(limited)
	if d.NTLM(r) {
		limited.N = maxRefusal
		var err error
		if secret, err = d.challenge(conn, reader, r, http.MethodConnect, to.Address(), to.Address()); err != nil {
			return nil, err
		}
		limited.N = maxHead
	}
	// Bodies stay open: a tunnel has none, and to close that of a refusal would wait
	// for the rest of it.
	response, err := ask(conn, reader, &http.Request{Method: http.MethodConnect}, head(http.MethodConnect, to.Address(), to.Address(), secret)) //nolint:bodyclose // see above
	if err != nil {
		return nil, err
	}
	other := d.Heard(r, response)
	if response.StatusCode/100 != 2 {
		return nil, &RefusedError{Route: r, Code: response.StatusCode, Status: printable(response.Status), other: other}
	}
	if reader.Buffered() == 0 {
		return conn, nil
	}
	return &early{Conn: conn, rest: reader}, nil
}

// head is that of a request without a body.
func head(method, target, host, authorization string) string {
	text := method + " " + target + " HTTP/1.1\r\nHost: " + host + "\r\n"
	if authorization != "" {
		text += "Proxy-Authorization: " + authorization + "\r\n"
	}
	return text + "\r\n"
}

// ask sends a request's head and reads the head of the answer.
func ask(conn net.Conn, reader *bufio.Reader, request *http.Request, head string) (*http.Response, error) {
	if _, err := io.WriteString(conn, head); err != nil {
		return nil, err
	}
	response, err := http.ReadResponse(reader, request)
	for err == nil && response.StatusCode >= 100 && response.StatusCode < 200 {
		response, err = http.ReadResponse(reader, request)
	}
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return nil, errors.New("it closed the connection without an answer to " + request.Method)
	}
	if err != nil {
		return nil, fmt.Errorf("read answer to %s: %w", request.Method, err)
	}
	return response, nil
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
