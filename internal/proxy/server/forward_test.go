package server

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"net/netip"
	"net/textproto"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/portolan-net/portolan/internal/proxy"
)

// originHandler shows what a server is sent.
func originHandler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("/headers", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Keep-Alive", "timeout=5")
		w.Header().Set("Connection", "X-Hop")
		w.Header().Set("X-Hop", "1")
		_ = r.Header.Write(w)
	})
	mux.HandleFunc("/echo", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Trailer", "X-Sum")
		body, _ := io.ReadAll(r.Body)
		_, _ = w.Write(body)
		w.Header().Set("X-Sum", r.Trailer.Get("X-Client"))
	})
	mux.HandleFunc("/hints", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Link", "</style.css>")
		w.WriteHeader(http.StatusEarlyHints)
		w.WriteHeader(http.StatusNoContent)
	})
	mux.HandleFunc("/never", func(w http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
	mux.HandleFunc("/breaks", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", "1000")
		_, _ = io.WriteString(w, "half")
		_ = http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	})
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprint(w, r.Host, " ", r.RequestURI, " ", r.RemoteAddr)
	})
	return mux
}

func startOrigin(t *testing.T) string {
	t.Helper()
	s := httptest.NewServer(originHandler())
	t.Cleanup(s.Close)
	return s.Listener.Addr().String()
}

// proxyClient is a client whose requests all go to the forward proxy.
func proxyClient(t *testing.T, forward string) *http.Client {
	t.Helper()
	transport := &http.Transport{Proxy: http.ProxyURL(&url.URL{Scheme: "http", Host: forward}), ExpectContinueTimeout: 5 * time.Second}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport}
}

func get(t *testing.T, c *http.Client, url string) (int, string) {
	t.Helper()
	response, err := c.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return response.StatusCode, strings.TrimSpace(string(body))
}

func TestForwardDirect(t *testing.T) {
	b := newBench(t, proxy.Config{}, "")
	b.put("web.example", "198.51.100.1:80", startOrigin(t))
	c := proxyClient(t, b.forward(containerAddr))
	_, first := get(t, c, "http://Web.Example/a%2Fb?x=1;y=%zz")
	_, second := get(t, c, "http://web.example/a%2Fb?x=1;y=%zz")
	if !strings.HasPrefix(second, "web.example /a%2Fb?x=1;y=%zz ") {
		t.Errorf("the server saw %q", second)
	}
	if port := func(s string) string { return s[strings.LastIndexByte(s, ':'):] }; port(first) != port(second) {
		t.Error("two requests on one connection went out on two")
	}
	if len(b.dialed) != 1 || b.dialed[0] != "172.17.0.2 > 198.51.100.1:80" {
		t.Errorf("dialed %v", b.dialed)
	}
}

func TestForwardHeaders(t *testing.T) {
	b := newBench(t, proxy.Config{}, "")
	b.put("", "198.51.100.1:80", startOrigin(t))
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://198.51.100.1/headers", http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	r.Header = http.Header{
		"Connection": {"X-Mine"}, "X-Mine": {"1"}, "Proxy-Connection": {"keep-alive"}, "Proxy-Authorization": {"Basic c2VjcmV0"},
		"Keep-Alive": {"1"}, "X-Forwarded-For": {"10.0.0.1"}, "X-Kept": {"yes"}, "Accept-Encoding": {"identity"}, "User-Agent": nil,
	}
	response, err := proxyClient(t, b.forward(containerAddr)).Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	body, _ := io.ReadAll(response.Body)
	if got, want := string(body), "Accept-Encoding: identity\r\nVia: 1.1 http.docker.internal\r\nX-Forwarded-For: 10.0.0.1\r\nX-Kept: yes\r\n"; got != want {
		t.Errorf("the server got\n%s\nwant\n%s", got, want)
	}
	if h := response.Header; h.Get("X-Hop") != "" || h.Get("Keep-Alive") != "" || h.Get("Via") == "" {
		t.Errorf("the client got %v", h)
	}
}

func TestForwardBodies(t *testing.T) {
	b := newBench(t, proxy.Config{}, "")
	b.put("", "198.51.100.1:80", startOrigin(t))
	c := proxyClient(t, b.forward(containerAddr))
	hints, continued := 0, false
	ctx := httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{
		Got1xxResponse: func(code int, h textproto.MIMEHeader) error {
			if code == http.StatusEarlyHints && h.Get("Link") != "" {
				hints++
			}
			return nil
		},
		Got100Continue: func() { continued = true },
	})
	long := strings.Repeat("portolan", 1<<17)
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://198.51.100.1/echo", io.MultiReader(strings.NewReader(long)))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Expect", "100-continue")
	r.Trailer = http.Header{"X-Client": {"from the client"}}
	response, err := c.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	body, err := io.ReadAll(response.Body)
	response.Body.Close()
	if err != nil || string(body) != long || !continued || response.Trailer.Get("X-Sum") != "from the client" {
		t.Errorf("chunked: %v, %d bytes, continued %v, trailer %v", err, len(body), continued, response.Trailer)
	}
	if r, err = http.NewRequestWithContext(ctx, http.MethodGet, "http://198.51.100.1/hints", http.NoBody); err != nil {
		t.Fatal(err)
	}
	if response, err = c.Do(r); err != nil {
		t.Fatal(err)
	}
	response.Body.Close()
	if response.StatusCode != http.StatusNoContent || hints != 1 {
		t.Errorf("status %d after %d early hints", response.StatusCode, hints)
	}
	if response, err = c.Get("http://198.51.100.1/breaks"); err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	if body, err := io.ReadAll(response.Body); err == nil {
		t.Errorf("an answer that breaks off looks whole: %q", body)
	}
}

// connect sends CONNECT and returns status, body (of a refusal) and connection.
func connect(t *testing.T, forward, target, early string) (int, string, *bufio.ReadWriter) {
	t.Helper()
	conn, err := net.Dial("tcp", forward)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
	fmt.Fprintf(conn, "CONNECT %s HTTP/1.1\r\nHost: %s\r\n\r\n%s", target, target, early)
	rw := bufio.NewReadWriter(bufio.NewReader(conn), bufio.NewWriter(conn))
	response, err := http.ReadResponse(rw.Reader, &http.Request{Method: http.MethodConnect})
	if err != nil {
		t.Fatalf("CONNECT %s: %v", target, err)
	}
	if response.StatusCode == http.StatusOK {
		return response.StatusCode, "", rw
	}
	body, _ := io.ReadAll(io.LimitReader(response.Body, response.ContentLength))
	text := strings.TrimSpace(string(body))
	if response.StatusCode != http.StatusBadRequest && !strings.HasSuffix(response.Status, ": "+text) {
		t.Errorf("the status line says %q, without %q", response.Status, text)
	}
	return response.StatusCode, text, rw
}

// startEcho answers what it gets.
func startEcho(t *testing.T) string {
	return startTalker(t, "")
}

func TestConnect(t *testing.T) {
	b := newBench(t, proxy.Config{}, "")
	b.put("echo.example", "198.51.100.1:7", startEcho(t))
	code, text, rw := connect(t, b.forward(containerAddr), "echo.example:7", "early")
	if code != http.StatusOK {
		t.Fatal(code, text)
	}
	_, _ = rw.WriteString(" and late\n")
	_ = rw.Flush()
	if line, err := rw.ReadString('\n'); line != "early and late\n" {
		t.Errorf("got %q, %v", line, err)
	}
}

// What can't be reached is refused with a status and a reason.
func TestRefusals(t *testing.T) {
	up407, up403 := startUpstream(t, http.StatusProxyAuthRequired, ""), startUpstream(t, http.StatusForbidden, "")
	dead := serveDead(t)
	config := func(url string) proxy.Config {
		return proxy.Config{HTTP: url, HTTPS: url, HTTPSource: "setting x", HTTPSSource: "setting x"}
	}
	for _, c := range []struct {
		name   string
		config proxy.Config
		target string
		code   int
		text   []string
	}{
		{"no port", proxy.Config{}, "web.example", 400, []string{"HOST:PORT"}},
		{"port 0", proxy.Config{}, "web.example:0", 400, []string{"1 to 65535"}},
		{"an address in disguise", proxy.Config{}, "127.1:80", 400, []string{"usual form"}},
		{"unknown name", proxy.Config{}, "nobody.example:443", 502, []string{"nobody.example", "NXDOMAIN"}},
		{"nobody listens", proxy.Config{}, "198.51.100.9:443", 502, []string{"198.51.100.9:443", "refused"}},
		{"a container", proxy.Config{}, "172.17.0.9:80", 403, []string{"172.17.0.9:80"}},
		{"a container by proxy", config("http://" + up403.addr), "172.17.0.9:80", 403, []string{"172.17.0.9:80"}},
		{"a container in IPv6 clothes", proxy.Config{}, "[::ffff:172.17.0.9]:80", 403, []string{"172.17.0.9:80"}},
		{"a name of a container", proxy.Config{}, "inside.example:80", 403, []string{"inside.example:80"}},
		{"blocked", proxy.Config{Closed: true}, "web.example:443", 403, []string{"web.example:443"}},
		{"login wanted", config("http://u:hunter2@" + up407.addr), "web.example:443", 502, []string{up407.addr, "407", "containersProxy.https"}},
		{"refused", config("http://" + up403.addr), "web.example:443", 502, []string{up403.addr, "403", "setting x"}},
		{"dead", config("http://u:hunter2@" + dead), "web.example:443", 502, []string{dead, "refused"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := newBench(t, c.config, "")
			b.names["inside.example"] = []netip.Addr{netip.MustParseAddr("172.17.0.9")}
			code, text, _ := connect(t, b.forward(containerAddr), c.target, "")
			if code != c.code || strings.Contains(text, "hunter2") {
				t.Errorf("%d %s, want %d", code, text, c.code)
			}
			for _, want := range c.text {
				if !strings.Contains(text, want) {
					t.Errorf("%q does not name %q", text, want)
				}
			}
		})
	}
}

// A status line has what belongs there, and no more than a client's buffer takes.
func TestReason(t *testing.T) {
	if got := reason("a\r\nb\tc\x00é"); got != "a  b c  " {
		t.Errorf("%q", got)
	}
	if got := reason(strings.Repeat("x", 1000)); len(got) != maxReason+len("...") {
		t.Errorf("%d bytes", len(got))
	}
}

// serveDead is an address where nobody listens any more.
func serveDead(t *testing.T) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	return ln.Addr().String()
}

// Requests in absolute form go to the proxy as they are, with its password; the
// engine's to the engine's proxy.
func TestForwardByProxy(t *testing.T) {
	up := startUpstream(t, http.StatusOK, "")
	b := newBench(t, proxy.Config{HTTP: "http://u:p@" + up.addr}, "")
	if code, body := get(t, proxyClient(t, b.forward(containerAddr)), "http://web.example:8080/x?y"); code != 200 || body != "http://web.example:8080/x?y" {
		t.Errorf("%d %q", code, body)
	}
	if got, want := up.heard(), "GET http://web.example:8080/x?y Basic dTpw"; got != want {
		t.Errorf("the proxy heard %q, want %q", got, want)
	}
	if code, _ := get(t, proxyClient(t, b.forward(engineAddr)), "http://web.example/"); code != 502 || len(up.asked) != 1 {
		t.Errorf("the engine's request: status %d; the containers' proxy heard %q", code, up.asked)
	}
}

// A proxy that says nothing is no reason to wait for ever.
func TestSilentProxy(t *testing.T) {
	silent := serve(t, func(_ context.Context, conn *net.TCPConn) { _, _ = io.Copy(io.Discard, conn); conn.Close() })
	b := newBench(t, proxy.Config{HTTP: "http://" + silent, HTTPS: "http://" + silent}, "")
	b.reach, b.answer = 300*time.Millisecond, 300*time.Millisecond
	forward := b.forward(containerAddr)
	if code, text, _ := connect(t, forward, "web.example:443", ""); code != http.StatusGatewayTimeout || !strings.Contains(text, silent) {
		t.Errorf("CONNECT: %d %s", code, text)
	}
	if code, text := get(t, proxyClient(t, forward), "http://web.example/"); code != http.StatusGatewayTimeout {
		t.Errorf("GET: %d %s", code, text)
	}
}

// An answer is passed on whole while the client is still sending.
func TestAnswerBeforeTheBodysEnd(t *testing.T) {
	answer := strings.Repeat("a", 64<<10)
	upstream := serve(t, func(_ context.Context, conn *net.TCPConn) {
		defer conn.Close()
		r := bufio.NewReader(conn)
		request, err := http.ReadRequest(r)
		if err != nil {
			t.Error(err)
			return
		}
		fmt.Fprintf(conn, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(answer), answer)
		_, _ = io.Copy(io.Discard, request.Body) // until the exchange has ended
	})
	b := newBench(t, proxy.Config{HTTP: "http://" + upstream}, "")
	conn, err := net.Dial("tcp", b.forward(containerAddr))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
	fmt.Fprint(conn, "POST http://web.example/ HTTP/1.1\r\nHost: web.example\r\nContent-Length: 8\r\n\r\nhalf")
	response, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(response.Body); err != nil || string(got) != answer {
		t.Errorf("%d bytes of %d: %v", len(got), len(answer), err)
	}
}
