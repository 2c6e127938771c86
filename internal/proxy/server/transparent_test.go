package server

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/portolan-net/portolan/internal/portolan"
	"github.com/portolan-net/portolan/internal/proxy"
)

// startTalker says greeting to each client, then answers what it gets.
func startTalker(t *testing.T, greeting string) string {
	t.Helper()
	return serve(t, func(_ context.Context, conn *net.TCPConn) {
		_, _ = io.WriteString(conn, greeting)
		_, _ = io.Copy(conn, conn)
		_ = conn.Close()
	})
}

// recorder keeps what is written to it, and answers nothing.
type recorder struct {
	net.Conn
	sent []byte
}

func (r *recorder) Write(p []byte) (int, error) { r.sent = append(r.sent, p...); return len(p), nil }
func (r *recorder) Read([]byte) (int, error)    { return 0, io.EOF }
func (r *recorder) Close() error                { return nil }

// clientHello is what crypto/tls says first.
func clientHello(t testing.TB, cfg *tls.Config) []byte {
	t.Helper()
	r := &recorder{}
	if err := tls.Client(r, cfg).HandshakeContext(t.Context()); err == nil {
		t.Fatal("a handshake with nobody")
	}
	return r.sent
}

func TestOpenings(t *testing.T) {
	hello := clientHello(t, &tls.Config{ServerName: "www.example"})
	unnamed := clientHello(t, &tls.Config{InsecureSkipVerify: true})
	// The same hello in two records.
	half := len(hello) / 2
	split := append([]byte{0x16, 3, 1, byte((half - 5) >> 8), byte(half - 5)}, hello[5:half]...)
	split = append(append(split, 0x16, 3, 1, byte((len(hello)-half)>>8), byte(len(hello)-half)), hello[half:]...)
	for _, c := range []struct {
		name, sent string
		want       opening
		whole      bool
	}{
		{"nothing", "", opening{}, false},
		{"TLS", string(hello), opening{kind: speaksTLS, name: "www.example"}, true},
		{"TLS, half", string(hello[:half]), opening{kind: speaksTLS}, false},
		{"TLS, one byte short", string(hello[:len(hello)-1]), opening{kind: speaksTLS}, false},
		{"TLS in two records", string(split), opening{kind: speaksTLS, name: "www.example"}, true},
		{"TLS without a name", string(unnamed), opening{kind: speaksTLS}, true},
		{"what looks like TLS", "\x16garbage that is no record", opening{kind: speaksTLS}, true},
		{"HTTP", "GET / HTTP/1.1\r\nHost: www.example:8080\r\n\r\n", opening{kind: speaksPlainHTTP, name: "www.example"}, true},
		{"HTTP, half", "GET / HTTP/1.1\r\nHost: www.ex", opening{}, false},
		{"HTTP, a few letters", "GE", opening{}, false},
		{"HTTP to an address", "GET / HTTP/1.1\r\nHost: 192.0.2.9\r\n\r\n", opening{kind: speaksPlainHTTP}, true},
		{"HTTP to no name", "GET / HTTP/1.1\r\nHost: a b\r\n\r\n", opening{kind: speaksPlainHTTP}, true},
		{"HTTP to a proxy", "CONNECT a.example:443 HTTP/1.1\r\nHost: a.example:443\r\n\r\n", opening{kind: speaksPlainHTTP}, true},
		{"HTTP/2", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", opening{}, true},
		{"SSH", "SSH-2.0-OpenSSH\r\n", opening{}, true},
		{"bytes", "\x00\x01", opening{}, true},
	} {
		got, whole := parseOpening([]byte(c.sent))
		if got.kind != c.want.kind || got.name != c.want.name || whole != c.whole {
			t.Errorf("%s: %d %q, whole %v", c.name, got.kind, got.name, whole)
		}
	}
}

// The proxy is asked for the name, and gets every byte that the client sent.
func TestTransparentNames(t *testing.T) {
	hello := string(clientHello(t, &tls.Config{ServerName: "www.example"}))
	for _, c := range []struct {
		name, dst string
		parts     []string
		want      string
	}{
		{"HTTP", "198.51.100.1:80", []string{"GET / HTTP/1.1\r\nHost: Www.Example\r\n\r\n"}, "CONNECT www.example:80 "},
		{"HTTP in pieces", "198.51.100.1:80", []string{"G", "ET / HTTP/1.1\r\nHo", "st: www.example\r\n", "\r\nbody"}, "CONNECT www.example:80 "},
		{"TLS in pieces", "198.51.100.1:443", []string{hello[:1], hello[1:7], hello[7:99], hello[99:]}, "CONNECT www.example:443 "},
		{"something else", "198.51.100.1:2222", []string{"SSH-2.0-x\r\n"}, "CONNECT 198.51.100.1:2222 "},
		{"IPv6", "[2001:db8::1]:2222", []string{"SSH-2.0-x\r\n"}, "CONNECT [2001:db8::1]:2222 "},
	} {
		t.Run(c.name, func(t *testing.T) {
			up := startUpstream(t, http.StatusOK, startEcho(t))
			conn, err := newBench(t, proxy.Config{HTTP: "http://" + up.addr, HTTPS: "http://" + up.addr}, "*").transparent(c.dst)
			if err != nil {
				t.Fatal(err)
			}
			for _, part := range c.parts {
				if _, err := io.WriteString(conn, part); err != nil {
					t.Fatal(err)
				}
				time.Sleep(20 * time.Millisecond)
			}
			whole := strings.Join(c.parts, "")
			got := make([]byte, len(whole))
			if _, err := io.ReadFull(conn, got); err != nil || string(got) != whole {
				t.Errorf("echo %q, %v", got, err)
			}
			if up.heard() != c.want {
				t.Errorf("the proxy heard %q, want %q", up.heard(), c.want)
			}
		})
	}
}

func TestTransparentServerFirst(t *testing.T) {
	up := startUpstream(t, http.StatusOK, startTalker(t, "220 mail.example\r\n"))
	conn, err := newBench(t, proxy.Config{HTTPS: "http://" + up.addr}, "*").transparent("198.51.100.1:25")
	if err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	got := make([]byte, 18)
	if _, err := io.ReadFull(conn, got); err != nil || string(got) != "220 mail.example\r\n" {
		t.Errorf("greeting %q, %v", got, err)
	}
	if took := time.Since(began); took > 5*eitherFirst {
		t.Errorf("the greeting took %s", took)
	}
}

// What the address decides shows in the handshake; what only the name decides
// after it.
func TestTransparentDecisions(t *testing.T) {
	up := startUpstream(t, http.StatusOK, startEcho(t))
	url := "http://" + up.addr
	both := proxy.Config{HTTP: url, HTTPS: url, Exclude: []proxy.Exclude{{Source: "test", Entries: []string{"10.0.0.0/8", ".direct.example"}}}}
	for _, c := range []struct {
		name   string
		config proxy.Config
		ports  string
		dst    string
		want   error
	}{
		{"no proxy", proxy.Config{}, "*", "198.51.100.1:80", errNotTaken},
		{"another port", both, "80,443", "198.51.100.1:22", errNotTaken},
		{"an excluded address", both, "*", "10.1.2.3:80", errNotTaken},
		{"a dead proxy", proxy.Config{HTTP: "http://" + serveDead(t)}, "80", "198.51.100.1:80", syscall.ECONNREFUSED},
		{"closed", proxy.Config{Closed: true}, "*", "198.51.100.1:80", syscall.EACCES},
		{"closed but for this", proxy.Config{Closed: true, Exclude: []proxy.Exclude{{Source: "test", Entries: []string{"198.51.100.1"}}}}, "*", "198.51.100.1:80", errNotTaken},
	} {
		_, err := newBench(t, c.config, c.ports).transparent(c.dst)
		if !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", c.name, err, c.want)
		}
	}

	// Anybody can write the name of an exclusion: its own addresses count.
	b := newBench(t, proxy.Config{Closed: true, Exclude: []proxy.Exclude{{Source: "test", Entries: []string{".direct.example"}}}}, "*")
	b.put("www.direct.example", "203.0.113.5:80", startEcho(t))
	conn, err := b.transparent("198.51.100.66:80")
	if err != nil {
		t.Fatal(err)
	}
	fmt.Fprint(conn, "GET / HTTP/1.1\r\nHost: www.direct.example\r\n\r\n")
	if _, err := io.ReadFull(conn, make([]byte, 10)); err != nil || len(b.dialed) != 1 || b.dialed[0] != "172.17.0.2 > 203.0.113.5:80" {
		t.Errorf("dialed %v, %v", b.dialed, err)
	}
	if conn, err = b.transparent("198.51.100.66:80"); err != nil {
		t.Fatal(err)
	}
	fmt.Fprint(conn, "GET / HTTP/1.1\r\nHost: www.other.example\r\n\r\n")
	if page, err := io.ReadAll(conn); err != nil || !strings.HasPrefix(string(page), "HTTP/1.1 403 ") || !strings.Contains(string(page), "www.other.example") {
		t.Errorf("page %q, %v", page, err)
	}
}

// A proxy that has no CONNECT for port 80 gets the requests themselves.
func TestTransparentWithoutTunnel(t *testing.T) {
	up := startUpstream(t, http.StatusForbidden, "")
	conn, err := newBench(t, proxy.Config{HTTP: "http://" + up.addr}, "80").transparent("198.51.100.1:80")
	if err != nil {
		t.Fatal(err)
	}
	fmt.Fprint(conn, "GET /x HTTP/1.1\r\nHost: www.example\r\nConnection: close\r\n\r\n")
	if page, err := io.ReadAll(conn); err != nil || !strings.HasSuffix(string(page), "\r\n\r\nhttp://www.example/x") {
		t.Errorf("page %q, %v", page, err)
	}
	if got, want := up.heard(), "CONNECT www.example:80 \nGET http://www.example/x "; got != want {
		t.Errorf("the proxy heard %q, want %q", got, want)
	}
}

func TestAllow(t *testing.T) {
	flow := func(src, dst string) portolan.Flow {
		return portolan.Flow{Proto: portolan.UDP, Src: netip.MustParseAddrPort(src), Dst: netip.MustParseAddrPort(dst)}
	}
	closed := newBench(t, proxy.Config{Closed: true, Exclude: []proxy.Exclude{{Source: "test", Entries: []string{"10.0.0.0/8"}}}}, "*")
	for _, c := range []struct {
		src, dst string
		refused  bool
	}{
		{"172.17.0.2:1", "198.51.100.1:53", true}, {"172.17.0.2:1", "10.1.1.1:53", false}, {engineAddr + ":1", "198.51.100.1:53", false},
	} {
		if err := closed.Allow(flow(c.src, c.dst)); errors.Is(err, syscall.EACCES) != c.refused {
			t.Errorf("%s to %s: %v", c.src, c.dst, err)
		}
	}
	if err := newBench(t, proxy.Config{}, "*").Allow(flow("172.17.0.2:1", "198.51.100.1:53")); err != nil {
		t.Error(err)
	}
}
