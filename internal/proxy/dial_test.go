package proxy

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"
)

// standIn serves one connection after the other with a script: what it reads
// up to, what it then says.
func standIn(t *testing.T, serve func(net.Conn)) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			serve(c)
			_ = c.Close()
		}
	}()
	t.Cleanup(func() { _ = l.Close(); <-ended })
	return l.Addr().String()
}

func newDialer() *Dialer {
	return &Dialer{Direct: (&net.Dialer{Timeout: time.Second}).DialContext}
}

func compiled(t *testing.T, c Config) *Policy {
	t.Helper()
	p, err := Compile(c)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// answering reads a request's head and says text.
func answering(text string) func(net.Conn) {
	return func(c net.Conn) {
		r := bufio.NewReader(c)
		for {
			line, err := r.ReadString('\n')
			if err != nil || line == "\r\n" {
				break
			}
		}
		_, _ = io.WriteString(c, text)
	}
}

func TestConnectAnswers(t *testing.T) {
	to := Destination{Host: "x.example", Port: 443}
	for _, c := range []struct {
		name, answer, err string
		code              int
	}{
		{name: "forbidden", answer: "HTTP/1.1 403 Forbidden\r\nContent-Length: 3\r\n\r\nno!", err: "refused: 403 Forbidden", code: 403},
		{name: "login", answer: "HTTP/1.0 407 Proxy Authentication Required\r\n\r\n", err: "refused: 407", code: 407},
		{name: "nothing", answer: "", err: "without an answer"},
		{name: "half", answer: "HTTP/1.1 200 O", err: "without an answer"},
		{name: "another protocol", answer: "SSH-2.0-x\r\n\r\n", err: "malformed HTTP"},
		{name: "an endless head", answer: "HTTP/1.1 200 OK\r\nX: " + strings.Repeat("x", 2*maxHead), err: "read answer"},
	} {
		t.Run(c.name, func(t *testing.T) {
			address := standIn(t, answering(c.answer))
			conn, _, err := newDialer().Dial(t.Context(), compiled(t, Config{HTTPS: "http://u:secret@" + address}), to)
			if conn != nil || err == nil || !strings.Contains(err.Error(), address) {
				t.Fatalf("Dial = %v, %v", conn, err)
			}
			var refused *RefusedError
			var unreachable *UnreachableError
			if errors.As(err, &refused) != (c.code != 0) || errors.As(err, &unreachable) == (c.code != 0) {
				t.Errorf("error %T: %v", err, err)
			}
			if c.code != 0 && (refused.Code != c.code || refused.AuthRequired() != (c.code == 407)) {
				t.Errorf("code %d, want %d", refused.Code, c.code)
			}
			if !strings.Contains(err.Error(), c.err) && c.err != "read answer" {
				t.Errorf("error %v, want %q", err, c.err)
			}
			if strings.Contains(fmt.Sprintf("%v %+v %#v", err, err, err), "secret") {
				t.Errorf("the error tells the password: %v", err)
			}
		})
	}
}

// A server that speaks first may do so in the same packet as the proxy.
func TestConnectEarly(t *testing.T) {
	address := standIn(t, func(c net.Conn) {
		answering("HTTP/1.1 200 OK\r\nX: y\r\n\r\n220 hello\r\n")(c)
		_, _ = io.Copy(c, c)
	})
	conn, decision, err := newDialer().Dial(t.Context(), compiled(t, Config{HTTPS: address}), Destination{Host: "x.example", Port: 25})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := io.WriteString(conn, "quit"); err != nil {
		t.Fatal(err)
	}
	if err := conn.(interface{ CloseWrite() error }).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(conn); string(got) != "220 hello\r\nquit" || err != nil {
		t.Errorf("read %q, %v", got, err)
	}
	if decision.Source != "https" || decision.Rule != "proxy http://"+address {
		t.Errorf("decision %+v", decision)
	}
}

func TestFallBack(t *testing.T) {
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	gone := closed.Addr().String()
	_ = closed.Close()
	good := standIn(t, answering("HTTP/1.1 200 OK\r\n\r\n"))
	refusing := standIn(t, answering("HTTP/1.1 403 Forbidden\r\n\r\n"))
	to := Destination{Host: "x.example", Port: 443}
	for pac, want := range map[string]string{
		"PROXY " + gone + "; PROXY " + good:                     "http://" + good,
		"SOCKS " + gone + "; HTTPS " + gone + "; PROXY " + good: "http://" + good,
		"PROXY " + gone + "; PROXY reject.docker.internal:1":    "blocked by PAC test",
		"PROXY " + refusing + "; PROXY " + good:                 "refused: 403",
		"PROXY " + gone:                                         "reach proxy http://" + gone,
		"PROXY reject.docker.internal:1; PROXY " + good:         "blocked by PAC test",
	} {
		script := NewScript("test", "function FindProxyForURL() { return '"+pac+"' }", testHost())
		d, p := newDialer(), compiled(t, Config{Script: script})
		for range 2 { // the second time, what was dead comes last
			decision, err := p.Decide(t.Context(), to)
			if err != nil {
				t.Fatal(err)
			}
			conn, r, err := d.Walk(t.Context(), decision, to)
			got := r.String()
			if err != nil {
				got = err.Error()
			} else {
				_ = conn.Close()
			}
			if !strings.Contains(got, want) {
				t.Errorf("%s: %s, want %s", pac, got, want)
			}
		}
	}
}

func TestDeadProxiesComeLast(t *testing.T) {
	d := newDialer()
	routes := []Route{{Kind: HTTP, Address: "a:1"}, {Kind: HTTP, Address: "b:1"}, {}}
	d.note(t.Context(), "a:1", &UnreachableError{})
	if got := fmt.Sprint(d.order(routes)); got != "[http://b:1 direct http://a:1]" {
		t.Errorf("order = %s", got)
	}
	d.note(t.Context(), "a:1", &RefusedError{})
	if got := fmt.Sprint(d.order(routes)); got != "[http://a:1 http://b:1 direct]" {
		t.Errorf("order after an answer = %s", got)
	}
}

func TestSOCKSAnswers(t *testing.T) {
	for _, c := range []struct{ name, answer, err string }{
		{"refused", "\x05\x00\x05\x05\x00\x01\x00\x00\x00\x00\x00\x00", "refused: connection refused"},
		{"not allowed", "\x05\x00\x05\x02\x00\x01\x00\x00\x00\x00\x00\x00", "refused: not allowed by its rules"},
		{"no method", "\x05\xff", "refused: it wants another way to log in"},
		{"wrong login", "\x05\x02\x01\x01", "refused: user or password is wrong"},
		{"another version", "\x04\x5a", "does not speak SOCKS5"},
		{"HTTP", "HTTP/1.1 400 Bad\r\n\r\n", "does not speak SOCKS5"},
		{"strange address", "\x05\x00\x05\x00\x00\x09", "does not speak SOCKS5"},
		{"half", "\x05\x00\x05", "read SOCKS reply"},
	} {
		t.Run(c.name, func(t *testing.T) {
			address := standIn(t, func(conn net.Conn) {
				_, _ = conn.Read(make([]byte, 100))
				_, _ = io.WriteString(conn, c.answer)
				_ = conn.(*net.TCPConn).CloseWrite()
				_, _ = io.Copy(io.Discard, conn)
			})
			_, _, err := newDialer().Dial(t.Context(), compiled(t, Config{HTTPS: "socks5h://u:secret@" + address}), Destination{Host: "x.example", Port: 1})
			if err == nil || !strings.Contains(err.Error(), c.err) || strings.Contains(err.Error(), "secret") {
				t.Errorf("Dial: %v, want %q", err, c.err)
			}
		})
	}
}

// A proxy that says nothing does not hold anybody longer than he wants.
func TestSilentProxy(t *testing.T) {
	for _, scheme := range []string{"http", "https", "socks5h"} {
		address := standIn(t, func(c net.Conn) { _, _ = io.Copy(io.Discard, c) })
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		began := time.Now()
		_, _, err := newDialer().Dial(ctx, compiled(t, Config{HTTPS: scheme + "://" + address}), Destination{Host: "x.example", Port: 1})
		cancel()
		var unreachable *UnreachableError
		if !errors.As(err, &unreachable) || time.Since(began) > 5*time.Second {
			t.Errorf("%s: %v after %s", scheme, err, time.Since(began))
		}
	}
}

func TestSecretsAreNotPrinted(t *testing.T) {
	p := compiled(t, Config{HTTPS: "http://user:geheim@p.example:1"})
	decision, err := p.Decide(t.Context(), Destination{Host: "x.example", Port: 443})
	if err != nil {
		t.Fatal(err)
	}
	text, err := json.Marshal(decision)
	if err != nil {
		t.Fatal(err)
	}
	all := string(text) + fmt.Sprintf("%v %+v %#v %s %v %+v", decision, decision, decision, decision.Routes[0], p, *p)
	if strings.Contains(all, "geheim") {
		t.Errorf("a password is printed: %s", all)
	}
	if got := decision.Routes[0].Authorization(); got != "Basic dXNlcjpnZWhlaW0=" {
		t.Errorf("Authorization = %q", got)
	}
	if want := `{"routes":[{"kind":"http","address":"p.example:1"}],"source":"https","rule":"proxy http://p.example:1"}`; string(text) != want {
		t.Errorf("JSON %s, want %s", text, want)
	}
}

// A client that gives up says nothing about the proxy: the next one's way stays.
func TestGivenUpIsNotDead(t *testing.T) {
	address := standIn(t, func(c net.Conn) { _, _ = io.Copy(io.Discard, c) })
	d, r := newDialer(), Route{Kind: HTTP, Address: address}
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(50*time.Millisecond, cancel)
	if _, _, err := d.Walk(ctx, Decision{Routes: []Route{r}}, Destination{Host: "x.example", Port: 1}); err == nil {
		t.Fatal("a silent proxy let us through")
	}
	if got := d.order([]Route{r, {}}); got[0] != r {
		t.Errorf("order %v: the proxy comes last", got)
	}
}

// A refusal counts at once, also when its text never ends.
func TestRefusalIsNotWaitedFor(t *testing.T) {
	address := standIn(t, func(c net.Conn) {
		answering("HTTP/1.1 403 Forbidden\r\nContent-Length: 1000\r\n\r\nn")(c)
		_, _ = io.Copy(io.Discard, c)
	})
	began := time.Now()
	_, _, err := newDialer().Dial(t.Context(), compiled(t, Config{HTTPS: "http://" + address}), Destination{Host: "x.example", Port: 1})
	var refused *RefusedError
	if !errors.As(err, &refused) || time.Since(began) > 5*time.Second {
		t.Errorf("%v after %s", err, time.Since(began))
	}
}
