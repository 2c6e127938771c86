package server

import (
	"bufio"
	"context"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/portolan-net/portolan/internal/proxy"
)

// ntlmUpstream is a proxy that logs connections in by NTLM, whoever it is, and
// then answers each request with its URL and body. It counts requests that came
// without a login.
func ntlmUpstream(t *testing.T) (address string, refused *atomic.Int32) {
	t.Helper()
	challenge, err := hex.DecodeString("4e544c4d53535000" + "02000000" + "0000000000000000" + "01020200" + "0123456789abcdef" + "0000000000000000" + "0000000000000000")
	if err != nil {
		t.Fatal(err)
	}
	refused = &atomic.Int32{}
	return serve(t, func(_ context.Context, conn *net.TCPConn) {
		defer conn.Close()
		r := bufio.NewReader(conn)
		for loggedIn, begun := false, false; ; {
			request, err := http.ReadRequest(r)
			if err != nil {
				return
			}
			message, _ := base64.StdEncoding.DecodeString(strings.TrimPrefix(request.Header.Get("Proxy-Authorization"), "NTLM "))
			loggedIn = loggedIn || begun && len(message) > 8 && message[8] == 3
			switch {
			case loggedIn:
				body, _ := io.ReadAll(request.Body)
				fmt.Fprintf(conn, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s%s", len(request.RequestURI)+len(body), request.RequestURI, body)
			case len(message) > 8 && message[8] == 1:
				begun = true
				fmt.Fprintf(conn, "HTTP/1.1 407 Login\r\nProxy-Authenticate: NTLM %s\r\nContent-Length: 0\r\n\r\n", base64.StdEncoding.EncodeToString(challenge))
			default:
				refused.Add(1)
				fmt.Fprint(conn, "HTTP/1.1 407 Login\r\nProxy-Authenticate: NTLM\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
				return
			}
		}
	}), refused
}

// Requests in absolute form are logged in by NTLM where the proxy wants that,
// the first one with its body as well.
func TestForwardNTLM(t *testing.T) {
	address, refused := ntlmUpstream(t)
	b := newBench(t, proxy.Config{HTTP: "http://CORP%5Cme:word@" + address}, "")
	client := proxyClient(t, b.forward(containerAddr))
	long := "http://web.example/?" + strings.Repeat("x", 8<<10) // more than one write
	for _, url := range []string{"http://web.example/1", "http://web.example:8080/2", long} {
		response, err := client.Post(url, "text/plain", strings.NewReader("body"))
		if err != nil {
			t.Fatal(err)
		}
		got, _ := io.ReadAll(response.Body)
		response.Body.Close()
		if response.StatusCode != http.StatusOK || string(got) != url+"body" {
			t.Errorf("%.40s: %d %.80s", url, response.StatusCode, got[max(0, len(got)-80):])
		}
	}
	if code, got := get(t, proxyClient(t, b.forward(containerAddr)), long); code != http.StatusOK || got != long {
		t.Errorf("a new connection's first request: %d %.80s", code, got)
	}
	if n := refused.Load(); n != 1 {
		t.Errorf("refused %d times, want once", n)
	}
}

// What a proxy takes to be connected to is not given to it again for its answer.
func TestOneLimitForAll(t *testing.T) {
	silent := serve(t, func(_ context.Context, conn *net.TCPConn) { _, _ = io.Copy(io.Discard, conn); conn.Close() })
	b := newBench(t, proxy.Config{HTTP: "http://" + silent, HTTPS: "http://" + silent}, "443")
	const limit, connecting = 2 * time.Second, 1500 * time.Millisecond
	b.reach, b.answer = limit, limit
	b.proxy.Direct = func(ctx context.Context, network, address string) (net.Conn, error) {
		time.Sleep(connecting)
		return (&net.Dialer{}).DialContext(ctx, network, address)
	}
	began := time.Now()
	if code, text := get(t, proxyClient(t, b.forward(containerAddr)), "http://web.example/"); code != http.StatusGatewayTimeout || !strings.Contains(text, silent) {
		t.Errorf("GET: %d %s", code, text)
	}
	if took := time.Since(began); took < limit || took > limit+connecting/2 {
		t.Errorf("GET took %s, want %s", took, limit)
	}
	began = time.Now()
	conn, err := b.transparent("203.0.113.1:443")
	if err != nil {
		t.Fatal(err)
	}
	_, _ = io.WriteString(conn, "no TLS")
	_, _ = io.Copy(io.Discard, conn) // it is reset
	if took := time.Since(began); took < limit || took > limit+connecting/2 {
		t.Errorf("a transparent flow took %s, want %s", took, limit)
	}
}
