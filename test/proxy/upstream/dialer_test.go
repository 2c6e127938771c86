package upstream_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/portolan-net/portolan/internal/lab"
	"github.com/portolan-net/portolan/internal/proxy"
)

// client is how long a client of ours waits for an error at most.
const client = 30 * time.Second

// world is a lab with all the proxies, and a dialer on its host.
type world struct {
	office
	dialer    *proxy.Dialer
	stopSquid func()
}

func newWorld(t *testing.T) world {
	t.Helper()
	l := lab.New(t)
	l.StartInternet(t)
	w := world{office: newOffice(t, l)}
	ca, stop := w.startSquid()
	w.startTinyproxy()
	w.startDante()
	roots := x509.NewCertPool()
	roots.AddCert(ca)
	w.stopSquid = stop
	w.dialer = &proxy.Dialer{Direct: l.Host.Dial, TLS: &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}}
	return w
}

func (w world) dial(upstream, to string) (net.Conn, error) {
	w.t.Helper()
	p, err := proxy.Compile(proxy.Config{HTTP: upstream, HTTPS: upstream})
	if err != nil {
		w.t.Fatal(err)
	}
	destination, err := proxy.ParseDestination(to)
	if err != nil {
		w.t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(w.t.Context(), client)
	defer cancel()
	conn, _, err := w.dialer.Dial(ctx, p, destination)
	return conn, err
}

// echoes says whether bytes go there and back, and how they end.
func echoes(t *testing.T, conn net.Conn) {
	t.Helper()
	defer conn.Close()
	text := strings.Repeat("there and back\n", 1000)
	if _, err := io.WriteString(conn, text); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, len(text))
	if _, err := io.ReadFull(conn, got); err != nil || string(got) != text {
		t.Errorf("echo gave %d bytes, %v", len(got), err)
	}
}

func TestDialers(t *testing.T) {
	w := newWorld(t)
	user := url.UserPassword("me", password).String()
	for _, c := range []struct{ name, upstream, host string }{
		{"squid", "http://" + squidOpen, "web.internet.test"},
		{"squid with Basic", "http://" + user + "@" + squidBasic, "web.internet.test"},
		{"squid with NTLM", "http://" + url.UserPassword(`CORP\me`, password).String() + "@" + squidNTLM, "web.internet.test"},
		{"squid in TLS", "https://" + squidTLS, "web.internet.test"},
		{"tinyproxy", "http://" + tinyproxy, lab.WebV4},
		{"dante, address", "socks5://" + dante, lab.WebV4},
		{"dante, no name to look up", "socks5h://" + dante, lab.WebV4},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := w
			w.t = t
			conn, err := w.dial(c.upstream, c.host+":7")
			if err != nil {
				t.Fatal(err)
			}
			echoes(t, conn)
		})
	}
	t.Run("absolute form", func(t *testing.T) { w.checkAbsoluteForm(t) })
	t.Run("refusals", func(t *testing.T) { w.checkRefusals(t) })
	t.Run("gone", func(t *testing.T) { w.checkGone(t) })
}

// What B's side does with a plain http request: the proxy's connection, and the
// credentials.
func (w world) checkAbsoluteForm(t *testing.T) {
	p, err := proxy.Compile(proxy.Config{HTTP: "http://me@" + squidBasic, Password: password})
	if err != nil {
		t.Fatal(err)
	}
	decision, err := p.Decide(t.Context(), proxy.Destination{Host: "web.internet.test", Port: 80})
	if err != nil {
		t.Fatal(err)
	}
	conn, err := w.dialer.DialProxy(t.Context(), decision.Routes[0])
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://web.internet.test/", http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("Proxy-Authorization", decision.Routes[0].Authorization())
	if err := request.WriteProxy(conn); err != nil {
		t.Fatal(err)
	}
	answer := make([]byte, 12)
	if _, err := io.ReadFull(conn, answer); err != nil || string(answer) != "HTTP/1.1 200" {
		t.Errorf("answer %q, %v", answer, err)
	}
}

func (w world) checkRefusals(t *testing.T) {
	for _, c := range []struct {
		name, upstream, to string
		code               int
	}{
		{"squid forbids", "http://" + squidOpen, "x.forbidden.test:443", 403},
		{"squid wants a login", "http://" + squidBasic, "web.internet.test:7", 407},
		{"squid wants NTLM", "http://" + squidNTLM, "web.internet.test:7", 407},
		{"Samba does not know me", `http://CORP%5Cme:wrong@` + squidNTLM, "web.internet.test:7", 407},
		{"squid does not know me", "http://me:wrong@" + squidBasic, "web.internet.test:7", 407},
		{"tinyproxy forbids the port", "http://" + tinyproxy, lab.WebV4 + ":25", 403},
		{"dante forbids", "socks5h://" + dante, lab.EmptyV4 + ":7", 2},
		{"nobody listens behind dante", "socks5h://" + dante, lab.WebV4 + ":9", 5},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := w
			w.t = t
			conn, err := w.dial(c.upstream, c.to)
			if err == nil {
				_ = conn.Close()
			}
			var refused *proxy.RefusedError
			if !errors.As(err, &refused) || refused.Code != c.code || strings.Contains(err.Error(), "wrong") {
				t.Errorf("Dial: %v, want refusal %d", err, c.code)
			}
			if c.code == 407 && !refused.AuthRequired() {
				t.Error("407 is no question of credentials")
			}
		})
	}
}

// Without squid, its routes say that it can't be reached, and the next one is
// taken.
func (w world) checkGone(t *testing.T) {
	w.stopSquid()
	w.t = t
	_, err := w.dial("http://"+squidOpen, "web.internet.test:7")
	var unreachable *proxy.UnreachableError
	if !errors.As(err, &unreachable) || !strings.Contains(err.Error(), "reach proxy http://"+squidOpen) {
		t.Errorf("Dial: %v, want that the proxy can't be reached", err)
	}
	script := proxy.NewScript("lab", `function FindProxyForURL(url, host) { return "PROXY `+squidOpen+`; SOCKS5 `+dante+`" }`, proxy.RealHost())
	p, err := proxy.Compile(proxy.Config{Script: script})
	if err != nil {
		t.Fatal(err)
	}
	conn, _, err := w.dialer.Dial(t.Context(), p, proxy.Destination{Host: lab.WebV4, Port: 7})
	if err != nil {
		t.Fatal(err)
	}
	echoes(t, conn)
}
