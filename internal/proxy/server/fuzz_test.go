package server

import (
	"crypto/tls"
	"net/netip"
	"slices"
	"strings"
	"testing"
)

// Whatever a client sends first, the name is one that policies and proxies read
// alike, and more bytes never change a finding that was whole.
func FuzzOpening(f *testing.F) {
	f.Add(clientHello(f, &tls.Config{ServerName: "www.example"}))
	f.Add([]byte("GET / HTTP/1.1\r\nHost: www.example:80\r\n\r\n"))
	f.Add([]byte("POST http://a.example/ HTTP/1.1\nHost: b.example\n\n"))
	f.Fuzz(func(t *testing.T, sent []byte) {
		first, whole := parseOpening(sent)
		if first.name != "" {
			if host, err := parseHost(first.name); err != nil || host != first.name || isAddress(host) {
				t.Errorf("name %q: %q, %v", first.name, host, err)
			}
		}
		if again, _ := parseOpening(append(slices.Clip(sent), "more"...)); whole && again.name != first.name {
			t.Errorf("name %q, with more bytes %q", first.name, again.name)
		}
	})
}

// A destination is a host and a port that read the same when written again.
func FuzzTarget(f *testing.F) {
	for _, seed := range []string{"www.example:443", "[::1]:80", "[::ffff:127.0.0.1]:80", "127.1:80", "0x7f.1:80", "a..b:1", "[fe80::1%eth0]:1", "a:b@c:1"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		to, err := parseTarget(text, 0)
		if err != nil {
			return
		}
		if again, err := parseTarget(to.Address(), 0); err != nil || again != to {
			t.Errorf("%q is %+v, then %+v, %v", text, to, again, err)
		}
		if addr, err := netip.ParseAddr(to.Host); err == nil && addr.Is4In6() || strings.ContainsAny(to.Host, " \t\r\n@/%") {
			t.Errorf("%q is host %q", text, to.Host)
		}
	})
}
