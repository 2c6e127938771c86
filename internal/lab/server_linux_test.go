package lab

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"
)

// browser is an HTTP client on the host.
func browser(t *testing.T, l *Lab) *http.Client {
	t.Helper()
	transport := &http.Transport{DialContext: l.Host.Dial}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport, Timeout: patience}
}

func TestWeb(t *testing.T) {
	l := New(t)
	l.StartWeb(t, l.Internet, WebV4+":80")
	client, url := browser(t, l), "http://"+WebV4
	const size = 3_000_000
	resp, err := client.Get(fmt.Sprintf("%s/bytes/%d", url, size))
	if err != nil {
		t.Fatal(err)
	}
	body, err := io.ReadAll(resp.Body)
	resp.Body.Close()
	sum := sha256.Sum256(body)
	want := hex.EncodeToString(sum[:])
	if err != nil || len(body) != size || resp.Trailer.Get(TrailerSHA256) != want || BytesSHA256(size) != want {
		t.Errorf("/bytes: %d bytes of %s, trailer %v, BytesSHA256 %s (%v)", len(body), want, resp.Trailer, BytesSHA256(size), err)
	}
	for _, c := range []struct {
		method, path string
		body         []byte
		status       int
		want         string
	}{
		{"GET", "/", nil, 200, "hello"},
		{"GET", "/ip", nil, 200, HostV4},
		{"GET", fmt.Sprintf("/sha256/%d", size), nil, 200, want},
		{"POST", "/upload", body, 200, want},
		{"GET", "/slow/10ms", nil, 200, "slow"},
		{"GET", "/slow/soon", nil, 400, ""},
		{"GET", "/bytes/-1", nil, 400, ""},
		{"GET", "/nowhere", nil, 404, ""},
	} {
		req, err := http.NewRequestWithContext(t.Context(), c.method, url+c.path, bytes.NewReader(c.body))
		if err != nil {
			t.Fatal(err)
		}
		resp, err := client.Do(req)
		if err != nil {
			t.Errorf("%s %s: %v", c.method, c.path, err)
			continue
		}
		got, _ := io.ReadAll(resp.Body)
		resp.Body.Close()
		if resp.StatusCode != c.status || c.want != "" && strings.TrimSpace(string(got)) != c.want {
			t.Errorf("%s %s = %d %q, want %d %q", c.method, c.path, resp.StatusCode, got, c.status, c.want)
		}
	}
}

func TestTCPEchoHalfClose(t *testing.T) {
	l := New(t)
	s := l.StartTCPEcho(t, l.Internet, "["+WebV6+"]:7")
	c, err := l.Host.Dial(t.Context(), "tcp", s.Addr.String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	sent, _ := io.ReadAll(NewBytes(1 << 20))
	go func() {
		_, _ = c.Write(sent)
		_ = c.(*net.TCPConn).CloseWrite()
	}()
	_ = c.SetDeadline(time.Now().Add(patience))
	got, err := io.ReadAll(c)
	if err != nil || !bytes.Equal(got, sent) {
		t.Errorf("echo of %d bytes gave %d (%v)", len(sent), len(got), err)
	}
}

func TestUDPEchoSizes(t *testing.T) {
	l := New(t)
	for _, addr := range []string{WebV4, WebV6} {
		s := l.StartUDPEcho(t, l.Internet, net.JoinHostPort(addr, "7"))
		c, err := l.Host.Dial(t.Context(), "udp", s.Addr.String())
		if err != nil {
			t.Fatal(err)
		}
		buf := make([]byte, 1<<16)
		for _, size := range []int64{0, 1, 1400, 9000, 65507} {
			sent, _ := io.ReadAll(NewBytes(size))
			_ = c.SetDeadline(time.Now().Add(patience))
			if _, err := c.Write(sent); err != nil {
				t.Errorf("%s: send %d bytes: %v", addr, size, err)
				continue
			}
			if n, err := c.Read(buf); err != nil || !bytes.Equal(buf[:n], sent) {
				t.Errorf("%s: echo of %d bytes has %d (%v)", addr, size, n, err)
			}
		}
		if got := s.Clients(); len(got) != 5 || got[4].String() != c.LocalAddr().String() {
			t.Errorf("%s saw %v, want 5 times %s", addr, got, c.LocalAddr())
		}
		c.Close()
	}
}

// ask sends one query from the host; bufsize 0 means no EDNS.
func ask(t *testing.T, l *Lab, network, server, name string, qtype, bufsize uint16) (*dns.Msg, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	c, err := l.Host.Dial(ctx, network, net.JoinHostPort(server, "53"))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	q := new(dns.Msg).SetQuestion(name, qtype)
	if bufsize > 0 {
		q.SetEdns0(bufsize, false)
	}
	reply, _, err := (&dns.Client{}).ExchangeWithConnContext(ctx, q, &dns.Conn{Conn: c, UDPSize: bufsize})
	return reply, err
}

func TestDNSRecords(t *testing.T) {
	l := New(t)
	s := l.StartDNS(t, l.Internet, DNSV4+":53", "more.internet.test. 60 IN A 198.51.100.200", "a.deep.internet.test. 60 IN A 198.51.100.201")
	for _, c := range []struct {
		name  string
		qtype uint16
		rcode int
		want  string // in the last record of the answer; "" means none
	}{
		{"web.internet.test.", dns.TypeA, dns.RcodeSuccess, WebV4},
		{"WEB.Internet.Test.", dns.TypeAAAA, dns.RcodeSuccess, WebV6},
		{"v4only.internet.test.", dns.TypeAAAA, dns.RcodeSuccess, ""},
		{"v6only.internet.test.", dns.TypeAAAA, dns.RcodeSuccess, WebV6},
		{"alias.internet.test.", dns.TypeA, dns.RcodeSuccess, "web.internet.test.\t60\tIN\tA"},
		{"alias.internet.test.", dns.TypeCNAME, dns.RcodeSuccess, "CNAME\tweb"},
		{"txt.internet.test.", dns.TypeTXT, dns.RcodeSuccess, `"second; string"`},
		{"internet.test.", dns.TypeMX, dns.RcodeSuccess, "10 mail.internet.test."},
		{"_http._tcp.internet.test.", dns.TypeSRV, dns.RcodeSuccess, "1 2 80 web"},
		{"https.internet.test.", dns.TypeHTTPS, dns.RcodeSuccess, `alpn="h2,h3"`},
		{"unknown.internet.test.", 65280, dns.RcodeSuccess, `\# 5 0a00ff0102`},
		{"more.internet.test.", dns.TypeA, dns.RcodeSuccess, "198.51.100.200"},
		{"deep.internet.test.", dns.TypeA, dns.RcodeSuccess, ""},
		{"nowhere.internet.test.", dns.TypeA, dns.RcodeNameError, ""},
		{"servfail.internet.test.", dns.TypeA, dns.RcodeServerFailure, ""},
		{"example.org.", dns.TypeA, dns.RcodeRefused, ""},
	} {
		for _, network := range []string{"udp", "tcp"} {
			reply, err := ask(t, l, network, DNSV4, c.name, c.qtype, 1232)
			if err != nil {
				t.Errorf("%s %s: %v", network, c.name, err)
				continue
			}
			last := ""
			if n := len(reply.Answer); n > 0 {
				last = reply.Answer[n-1].String()
			}
			if reply.Rcode != c.rcode || !strings.Contains(last, c.want) || (c.want == "") != (last == "") {
				t.Errorf("%s %s %s = %s %q, want %s %q", network, c.name, dns.Type(c.qtype), dns.RcodeToString[reply.Rcode], last, dns.RcodeToString[c.rcode], c.want)
			}
		}
	}
	if _, err := ask(t, l, "udp", DNSV4, "silent.internet.test.", dns.TypeA, 0); err == nil {
		t.Error("silent answers")
	}
	first := s.Queries()[0]
	if first.Network != "udp" || first.Client.Addr().String() != HostV4 || first.Name != "web.internet.test." || first.Type != "A" {
		t.Errorf("the log begins with %s", first)
	}
	if !slices.ContainsFunc(s.Queries(), func(q Query) bool { return q.Type == "TYPE65280" && q.Network == "tcp" }) {
		t.Errorf("the log has no TYPE65280 by TCP: %v", s.Queries())
	}
}

func TestDNSTruncation(t *testing.T) {
	l := New(t)
	l.StartDNS(t, l.Internet, "["+DNSV6+"]:53")
	for _, c := range []struct {
		network   string
		bufsize   uint16
		truncated bool
	}{{"udp", 0, true}, {"udp", 1232, true}, {"udp", 8192, false}, {"tcp", 0, false}} {
		reply, err := ask(t, l, c.network, DNSV6, "big.internet.test.", dns.TypeTXT, c.bufsize)
		if err != nil {
			t.Errorf("%s %d: %v", c.network, c.bufsize, err)
			continue
		}
		if reply.Truncated != c.truncated || (len(reply.Answer) == 0) != c.truncated {
			t.Errorf("%s with room for %d: truncated %v, %d records", c.network, c.bufsize, reply.Truncated, len(reply.Answer))
		}
	}
}
