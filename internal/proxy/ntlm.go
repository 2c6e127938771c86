package proxy

import (
	"bufio"
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"

	"github.com/Azure/go-ntlmssp"
)

// NTLM (MS-NLMP, MS-NTHT) logs a connection in, not a request:
//
//	we                                       the proxy
//	any request, "NTLM" and message 1        407, "NTLM" and message 2, a challenge
//	the request itself, "NTLM", message 3    its answer; the connection is logged in
//
// Nobody says beforehand which login a proxy wants. So Basic is tried first; a
// proxy that refuses it and offers NTLM instead is remembered, and logged in to
// by NTLM from then on.

// The schemes (RFC 9110, section 11.1).
const (
	basicScheme = "Basic"
	ntlmScheme  = "NTLM"
)

// maxRefusal bounds the page that comes with a challenge.
const maxRefusal = 1 << 20

// wantsNTLM reports a refusal by a proxy that offers NTLM and not Basic.
func wantsNTLM(answer *http.Response) bool {
	if answer.StatusCode != http.StatusProxyAuthRequired {
		return false
	}
	_, ntlm := offered(answer, ntlmScheme)
	_, basic := offered(answer, basicScheme)
	return ntlm && !basic
}

// offered looks for a scheme among those that a proxy offers, and returns what
// stands behind it.
func offered(answer *http.Response, scheme string) (rest string, ok bool) {
	offers := strings.Join(answer.Header.Values("Proxy-Authenticate"), ",")
	for offer := range strings.SplitSeq(offers, ",") {
		if name, rest, _ := strings.Cut(strings.TrimSpace(offer), " "); strings.EqualFold(name, scheme) {
			return strings.TrimSpace(rest), true
		}
	}
	return "", false
}

// Heard takes note of a proxy's answer to a request that had the route's login. It
// reports that the proxy wants another kind of login, which is tried from now on.
func (d *Dialer) Heard(r Route, answer *http.Response) (again bool) {
	switch {
	case r.login == nil:
	case wantsNTLM(answer):
		d.memory().setScheme(r.Address, ntlmScheme)
		return true
	case answer.StatusCode != http.StatusProxyAuthRequired && !d.NTLM(r):
		d.memory().setScheme(r.Address, basicScheme)
	}
	return false
}

// Knows reports whether the proxy of a route has told how it is logged in to.
func (d *Dialer) Knows(r Route) bool { return r.login == nil || d.memory().scheme(r.Address) != "" }

// NTLM reports whether the proxy of a route is logged in to by NTLM.
func (d *Dialer) NTLM(r Route) bool {
	return r.login != nil && d.memory().scheme(r.Address) == ntlmScheme
}

// firstMessage begins a login.
func firstMessage() (string, error) {
	message, err := ntlmssp.NewNegotiateMessage("", "")
	return ntlmScheme + " " + base64.StdEncoding.EncodeToString(message), err
}

// lastMessage ends a login. The user may be DOMAIN\user.
func (l *login) lastMessage(challenge string) (string, error) {
	text, err := base64.StdEncoding.DecodeString(challenge)
	if err != nil {
		return "", fmt.Errorf("read NTLM challenge: %w", err)
	}
	message, err := ntlmssp.NewAuthenticateMessage(text, l.user, l.password, nil)
	if err != nil {
		return "", fmt.Errorf("answer NTLM challenge: %w", err)
	}
	return ntlmScheme + " " + base64.StdEncoding.EncodeToString(message), nil
}

// challenge sends a request's head with the first message, reads the proxy's
// refusal, and returns the last message.
func (d *Dialer) challenge(conn net.Conn, reader *bufio.Reader, r Route, method, target, host string) (string, error) {
	first, err := firstMessage()
	if err != nil {
		return "", err
	}
	request := &http.Request{Method: method}
	answer, err := ask(conn, reader, request, head(method, target, host, first))
	if err != nil {
		return "", err
	}
	defer answer.Body.Close()
	text, ok := offered(answer, ntlmScheme)
	if answer.StatusCode != http.StatusProxyAuthRequired || !ok || text == "" || answer.Close {
		d.memory().setScheme(r.Address, "")
		return "", &RefusedError{Route: r, Code: http.StatusProxyAuthRequired, Status: "it does not go on with the login by NTLM: " + printable(answer.Status)}
	}
	if _, err := io.Copy(io.Discard, io.LimitReader(answer.Body, maxRefusal)); err != nil {
		return "", fmt.Errorf("read NTLM challenge: %w", err)
	}
	return r.login.lastMessage(text)
}

// DialNTLM is DialProxy for a proxy that is logged in to by NTLM: the first
// request on the connection ends the login. It must be one for the URL.
func (d *Dialer) DialNTLM(ctx context.Context, r Route, to Destination) (net.Conn, error) {
	conn, err := d.DialProxy(ctx, r)
	if err != nil {
		return nil, err
	}
	stop := endWith(ctx, conn)
	reader := bufio.NewReader(conn)
	// HEAD has no page with its refusal.
	last, err := d.challenge(conn, reader, r, http.MethodHead, "http://"+to.Address()+"/", to.Address())
	if !stop() && err == nil {
		err = context.Cause(ctx)
	}
	if err == nil && reader.Buffered() > 0 {
		err = errors.New("it says more than it was asked for")
	}
	if err == nil {
		return &loggingIn{Conn: conn, header: []byte("Proxy-Authorization: " + last + "\r\n")}, nil
	}
	_ = conn.Close()
	if _, refused := errors.AsType[*RefusedError](err); refused {
		return nil, err
	}
	return nil, &UnreachableError{Route: r, Err: err}
}

// loggingIn is a connection that adds a header to the first request.
type loggingIn struct {
	net.Conn
	header []byte // nil once it is sent
}

// Write passes on what is written, with the header behind the first line.
func (l *loggingIn) Write(p []byte) (int, error) {
	end := bytes.Index(p, []byte("\r\n"))
	if l.header == nil || end < 0 {
		return l.Conn.Write(p)
	}
	end += len("\r\n")
	text := append(append(bytes.Clone(p[:end]), l.header...), p[end:]...)
	l.header = nil
	n, err := l.Conn.Write(text)
	return min(n, len(p)), err
}
