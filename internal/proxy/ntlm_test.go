package proxy

import (
	"bufio"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
)

// ntlmChallenge is a message 2: no target, unicode and NTLM, the challenge
// 0123456789abcdef (MS-NLMP, section 2.2.1.2).
func ntlmChallenge() string {
	text, _ := hex.DecodeString("4e544c4d53535000" + "02000000" + "0000000000000000" + "01020200" + "0123456789abcdef" + "0000000000000000" + "0000000000000000")
	return base64.StdEncoding.EncodeToString(text)
}

// ntlmProxy logs in by NTLM whoever writes user into the last message, and
// tells how often it was asked without.
func ntlmProxy(t *testing.T, user string, tunnels func(net.Conn)) (address string, plain *atomic.Int32) {
	t.Helper()
	plain = &atomic.Int32{}
	return standIn(t, func(c net.Conn) {
		reader := bufio.NewReader(c)
		for begun := false; ; {
			r, err := http.ReadRequest(reader)
			if err != nil {
				return
			}
			message, _ := base64.StdEncoding.DecodeString(strings.TrimPrefix(r.Header.Get("Proxy-Authorization"), "NTLM "))
			wide := strings.Join(strings.Split(user, ""), "\x00") + "\x00"
			switch {
			case len(message) > 8 && message[8] == 1:
				begun = true
				fmt.Fprintf(c, "HTTP/1.1 407 Login\r\nProxy-Authenticate: NTLM %s\r\nContent-Length: 4\r\n\r\npage", ntlmChallenge())
			case begun && len(message) > 8 && message[8] == 3 && strings.Contains(string(message), wide):
				_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\n\r\n")
				tunnels(c)
				return
			default:
				plain.Add(1)
				_, _ = io.WriteString(c, "HTTP/1.1 407 Login\r\nProxy-Authenticate: Negotiate\r\nProxy-Authenticate: NTLM\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
				return
			}
		}
	}), plain
}

// A proxy that wants NTLM gets it, and only the first time something else.
func TestConnectNTLM(t *testing.T) {
	address, plain := ntlmProxy(t, "me", func(c net.Conn) { _, _ = io.Copy(c, c) })
	d, p := newDialer(), compiled(t, Config{HTTPS: "http://CORP%5Cme:word@" + address})
	for range 3 {
		conn, _, err := d.Dial(t.Context(), p, Destination{Host: "x.example", Port: 443})
		if err != nil {
			t.Fatal(err)
		}
		if _, ok := conn.(*net.TCPConn); !ok {
			t.Errorf("a %T can't be spliced", conn)
		}
		_, _ = io.WriteString(conn, "hello")
		_ = conn.(*net.TCPConn).CloseWrite()
		if got, err := io.ReadAll(conn); string(got) != "hello" {
			t.Errorf("%q, %v", got, err)
		}
		conn.Close()
	}
	if n := plain.Load(); n != 1 {
		t.Errorf("asked %d times without NTLM, want once", n)
	}
}

// One that does not believe the user is not asked for ever.
func TestConnectNTLMRefused(t *testing.T) {
	address, plain := ntlmProxy(t, "somebody", nil)
	_, _, err := newDialer().Dial(t.Context(), compiled(t, Config{HTTPS: "http://me:secret@" + address}), Destination{Host: "x.example", Port: 443})
	refused, ok := errors.AsType[*RefusedError](err)
	if !ok || !refused.AuthRequired() || strings.Contains(err.Error(), "secret") {
		t.Errorf("Dial: %v", err)
	}
	if n := plain.Load(); n != 2 {
		t.Errorf("refused %d times, want 2: Basic and NTLM", n)
	}
}

// A proxy that offers Basic as well has refused the user, not the scheme.
func TestNTLMOnlyWithoutBasic(t *testing.T) {
	var asked atomic.Int32
	address := standIn(t, func(c net.Conn) {
		asked.Add(1)
		answering("HTTP/1.1 407 Login\r\nProxy-Authenticate: NTLM\r\nProxy-Authenticate: Basic realm=\"x\"\r\nContent-Length: 0\r\n\r\n")(c)
	})
	_, _, err := newDialer().Dial(t.Context(), compiled(t, Config{HTTPS: "http://me:secret@" + address}), Destination{Host: "x.example", Port: 443})
	if _, ok := errors.AsType[*RefusedError](err); !ok || asked.Load() != 1 {
		t.Errorf("asked %d times: %v", asked.Load(), err)
	}
}

func FuzzChallenge(f *testing.F) {
	f.Add(ntlmChallenge())
	f.Add("TlRMTVNTUAACAAAAAAAAAA==")
	f.Fuzz(func(t *testing.T, text string) {
		message, err := (&login{user: `CORP\me`, password: "word"}).lastMessage(text)
		if err == nil && !strings.HasPrefix(message, "NTLM ") {
			t.Errorf("message %q", message)
		}
	})
}

func TestOffered(t *testing.T) {
	for _, c := range []struct {
		headers      []string
		ntlm, offers bool
	}{
		{[]string{"NTLM"}, true, true},
		{[]string{"Negotiate, ntlm"}, true, true},
		{[]string{"Negotiate", "NTLM abc="}, true, true},
		{[]string{"Basic realm=\"a, NTLM\"", "NTLM"}, true, false},
		{[]string{"Basic realm=\"NTLM\""}, false, false},
		{[]string{"Negotiate"}, false, false},
		{nil, false, false},
	} {
		answer := &http.Response{StatusCode: http.StatusProxyAuthRequired, Header: http.Header{"Proxy-Authenticate": c.headers}}
		if _, ok := offered(answer, ntlmScheme); ok != c.ntlm || wantsNTLM(answer) != c.offers {
			t.Errorf("%q: offered %v, wanted %v", c.headers, ok, wantsNTLM(answer))
		}
	}
}
