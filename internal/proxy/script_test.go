package proxy

import (
	"context"
	"errors"
	"net/netip"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// testHost is a Wednesday in July, in a network with a few names.
func testHost() Host {
	names := map[string]string{"intern.corp": "10.1.2.3", "six.corp": "fd00::6", "public.example": "203.0.113.5"}
	return Host{
		Lookup: func(_ context.Context, name string) ([]netip.Addr, error) {
			if addr, ok := names[name]; ok {
				return []netip.Addr{netip.MustParseAddr(addr)}, nil
			}
			return nil, errors.New("no such host")
		},
		Address: func() (netip.Addr, error) { return netip.MustParseAddr("192.0.2.7"), nil },
		Now:     func() time.Time { return time.Date(2026, 7, 15, 14, 30, 5, 0, time.FixedZone("", 2*3600)) },
	}
}

// eval is the text of a JavaScript expression in a PAC script.
func eval(t *testing.T, expression string) string {
	t.Helper()
	s := NewScript("test", "function FindProxyForURL(url, host) { return 'PROXY p:1;' + ("+expression+") }", testHost())
	text, _, err := s.run(t.Context(), Destination{Host: "h.example", Port: 443})
	if err != nil {
		return "error: " + err.Error()
	}
	return strings.TrimPrefix(text, "PROXY p:1;")
}

func TestHelpers(t *testing.T) {
	for expression, want := range map[string]string{
		`url`: "https://h.example/", `host`: "h.example",
		`isPlainHostName("www")`: "true", `isPlainHostName("www.a")`: "false", `isPlainHostName("::1")`: "false",
		`dnsDomainIs("www.corp", ".corp")`: "true", `dnsDomainIs("www.corp", ".other")`: "false",
		`localHostOrDomainIs("www", "www.corp")`: "true", `localHostOrDomainIs("www.corp", "www.corp")`: "true", `localHostOrDomainIs("home.corp", "www.corp")`: "false",
		`isResolvable("intern.corp")`: "true", `isResolvable("six.corp")`: "false", `isResolvableEx("six.corp")`: "true", `isResolvable("no.corp")`: "false",
		`dnsResolve("intern.corp")`: "10.1.2.3", `dnsResolve("no.corp")`: "null", `dnsResolve("1.2.3.4")`: "1.2.3.4", `dnsResolveEx("six.corp")`: "fd00::6",
		`isInNet("intern.corp", "10.0.0.0", "255.0.0.0")`: "true", `isInNet("10.9.1.1", "10.9.0.0", "255.255.0.0")`: "true",
		`isInNet("no.corp", "10.0.0.0", "255.0.0.0")`: "false", `isInNet("11.1.1.1", "10.0.0.0", "255.0.0.0")`: "false",
		`isInNetEx("six.corp", "fd00::/8")`: "true", `isInNetEx("10.1.1.1", "10.0.0.0/8")`: "true", `isInNetEx("x", "y")`: "false",
		`myIpAddress()`: "192.0.2.7", `myIpAddressEx()`: "192.0.2.7", `dnsDomainLevels("a.b.c")`: "2",
		`convert_addr("10.0.0.1")`: "167772161", `sortIpAddressList("10.0.0.2;fd00::1;10.0.0.1")`: "fd00::1;10.0.0.1;10.0.0.2",
		`shExpMatch("http://a.b/c", "*/c")`: "true", `shExpMatch("abc", "a?c")`: "true", `shExpMatch("abc", "a.c")`: "false", `shExpMatch("a(b", "a(*")`: "true",
		`weekdayRange("WED")`: "true", `weekdayRange("MON", "FRI")`: "true", `weekdayRange("SAT", "SUN")`: "false", `weekdayRange("FRI", "WED", "GMT")`: "true", `weekdayRange("X")`: "false",
		`dateRange(15)`: "true", `dateRange(16)`: "false", `dateRange(10, 20)`: "true", `dateRange("JUL")`: "true", `dateRange("NOV", "FEB")`: "false", `dateRange("JUN", "AUG")`: "true",
		`dateRange(2026)`: "true", `dateRange(2020, 2025)`: "false", `dateRange(1, "JUL", 15, "JUL")`: "true", `dateRange(24, "DEC", 2, "JAN")`: "false",
		`dateRange("JUN", 2026, "JUL", 2026)`: "true", `dateRange(1, "JAN", 2026, 14, "JUL", 2026)`: "false", `dateRange(1, "JAN", 2026, 15, "JUL", 2026, "GMT")`: "true", `dateRange("x")`: "false",
		`timeRange(14)`: "true", `timeRange(12, "GMT")`: "true", `timeRange(9, 17)`: "true", `timeRange(22, 6)`: "false", `timeRange(14, 30, 14, 30)`: "true",
		`timeRange(14, 31, 15, 0)`: "false", `timeRange(14, 30, 5, 14, 30, 6)`: "true", `timeRange(14, 30, 6, 14, 30, 7)`: "false", `timeRange()`: "false",
		`alert("x")`: "undefined", `[3,1,2].sort().join("-")`: "1-2-3", `"a.b".split(".").reverse().join(".")`: "b.a", `/^h\./.test(host)`: "true",
		`["a","b"].indexOf("b")`: "1", `"x".repeat(3)`: "xxx", `Math.max.apply(null, [1, 5])`: "5", `"%41".length`: "3", `JSON.stringify({a: [1]})`: `{"a":[1]}`,
	} {
		if got := eval(t, expression); got != want {
			t.Errorf("%s = %s, want %s", expression, got, want)
		}
	}
}

func TestScriptRule(t *testing.T) {
	s := NewScript("http://wpad/proxy.pac", `
function far(host) { return host.length > 4; }
function FindProxyForURL(url, host) {
  if (dnsDomainIs(host, ".corp")) return "DIRECT";
  for (var i = 0; i < 1; i++) {
    if (far(host)) { return "PROXY a.example:3128; SOCKS5 b.example"; }
  }
  switch (host) { case "x": return "HTTPS c.example:8443"; }
  return (host) == "bad" ? "PROXY reject.docker.internal:1" : null;
}`, testHost())
	for host, want := range map[string]string{
		"w.corp": "[direct] line 4", "example.com": "[http://a.example:3128 socks5h://b.example:1080] line 6",
		"x": "[https://c.example:8443] line 8", "bad": "[blocked] line 9", "y": "[direct] line 9",
	} {
		routes, rule, err := s.Find(t.Context(), Destination{Host: host, Port: 80})
		var kinds []string
		for _, r := range routes {
			kinds = append(kinds, r.String())
		}
		line, _, _ := strings.Cut(rule, ":")
		if got := "[" + strings.Join(kinds, " ") + "] " + line; err != nil || got != want {
			t.Errorf("%s: %s (%s), %v; want %s", host, got, rule, err, want)
		}
	}
}

// A script that is wrong denies, and says why.
func TestScriptFails(t *testing.T) {
	body := func(text string) string { return "function FindProxyForURL(url, host) {" + text + "}" }
	for text, want := range map[string]string{
		`function (`:                          "no JavaScript",
		`var x = 1`:                           "defines no function FindProxyForURL",
		`throw new Error("top")`:              "top",
		body(`return nothing.there`):          "nothing is not defined",
		body(``):                              "returned no text",
		body(`return 7`):                      "returned no text",
		body(`return "SOCKS4 a:1; QUIC b:2"`): "want PROXY, HTTPS, SOCKS",
		body(`return "PROXY"`):                "one host:port",
		body(`return ";"`):                    "names no way",
		body(`while (true);`):                 "does not end within",
		body(`return f(); function f() { return f() + 1 }`):                                "calls within each other",
		body(`var s = "x"; while (true) s += s;`):                                          "",
		body(`var a = []; while (true) a.push(new Array(1000).join("xxxxxxxxxxxxxxxx"));`): "",
		body(`return "x".repeat(1e9)`):                                                     "too long",
		body(`return new Array(4e9).join("x")`):                                            "too long",
		body(`return Array.apply(null, {length: 1e9})`):                                    "too long",
		body(`return new ArrayBuffer(1e9)`):                                                "ArrayBuffer is not defined",
		body(`return eval("1")`):                                                           "eval",
		strings.Repeat(" ", maxScript+1):                                                   "want at most",
	} {
		began := time.Now()
		routes, rule, err := NewScript("test", text, testHost()).Find(t.Context(), Destination{Host: "a.example", Port: 443})
		var failed *PACError
		if !errors.As(err, &failed) || !strings.Contains(err.Error(), want) || len(routes) > 0 {
			t.Errorf("%.80s: %v %q %v, want %q", text, routes, rule, err, want)
		}
		if took := time.Since(began); took > 5*scriptTime {
			t.Errorf("%.80s: took %s", text, took)
		}
	}
}

// What a decision leaves behind does not hinder the next one.
func TestScriptGoesOn(t *testing.T) {
	s := NewScript("test", `function FindProxyForURL(url, host) { if (host == "loop") while (true); return "DIRECT" }`, testHost())
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, _, err := s.Find(ctx, Destination{Host: "loop", Port: 80}); err == nil {
		t.Error("a loop without end gave a way")
	}
	done := make(chan error, 20)
	for range 20 {
		go func() {
			_, _, err := s.Find(t.Context(), Destination{Host: "x", Port: 80})
			done <- err
		}()
	}
	for range 20 {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	if len(s.slots) > maxEngines || len(s.idle) > maxEngines {
		t.Errorf("%d engines idle, want at most %d", len(s.idle), maxEngines)
	}
}

// Endless URLs cost no more than others.
func TestScriptSeesShortURLs(t *testing.T) {
	s := NewScript("test", `function FindProxyForURL(url, host) { return "PROXY p" + url.length + ":1" }`, testHost())
	for path, want := range map[string]string{"x?y": "p20:1", strings.Repeat("x", maxURL): "p17:1"} {
		routes, _, err := s.Find(t.Context(), Destination{Host: "a.example", Port: 80, URL: "http://a.example/" + path})
		if err != nil || routes[0].Address != want {
			t.Errorf("%.10s: %v, %v; want %s", path, routes, err, want)
		}
	}
}

// Names that nobody answers for do not stop other decisions.
func TestScriptWaitsForNames(t *testing.T) {
	host, ended := testHost(), make(chan error, 2*maxEngines)
	host.Lookup = func(ctx context.Context, _ string) ([]netip.Addr, error) { <-ctx.Done(); return nil, ctx.Err() }
	s := NewScript("test", `function FindProxyForURL(url, host) { if (host == "plain") return "DIRECT"; dnsResolve(host); return "DIRECT" }`, host)
	ctx, cancel := context.WithCancel(t.Context())
	for range 2 * maxEngines {
		go func() {
			_, _, err := s.Find(ctx, Destination{Host: "silent.example", Port: 80})
			ended <- err
		}()
	}
	for len(s.under) < 2*maxEngines {
		time.Sleep(time.Millisecond)
	}
	began := time.Now()
	if _, _, err := s.Find(t.Context(), Destination{Host: "plain", Port: 80}); err != nil || time.Since(began) > lookupTime/2 {
		t.Errorf("a decision without names: %v after %s", err, time.Since(began))
	}
	cancel()
	for range 2 * maxEngines {
		<-ended
	}
	for len(s.under) > 0 {
		time.Sleep(time.Millisecond)
	}
	if len(s.slots) > 0 || len(s.idle) > maxEngines {
		t.Errorf("%d slots taken, %d engines idle", len(s.slots), len(s.idle))
	}
}

func TestParseResult(t *testing.T) {
	for text, want := range map[string]string{
		"": "direct", "DIRECT": "direct", " proxy a:1 ;; direct": "http://a:1 direct", "PROXY [fd00::1]:8080": "http://[fd00::1]:8080",
		"SOCKS a": "socks5h://a:1080", "HTTPS a": "https://a:443", "PROXY a:0; PROXY b:1": "http://b:1", "QUIC a:1; DIRECT": "direct",
		"PROXY reject.docker.internal:1": "blocked", "PROXY reject.docker.internal:2": "http://reject.docker.internal:2",
		"PROXY http://a:1": "error", "PROXY u:p@a:1": "error", "DIRECT a": "error", "PROXY [a]:1": "error", "PROXY :1": "error",
	} {
		routes, err := ParseResult(text)
		var texts []string
		for _, r := range routes {
			texts = append(texts, r.String())
		}
		if err != nil {
			texts = []string{"error"}
		}
		if got := strings.Join(texts, " "); got != want {
			t.Errorf("ParseResult(%q) = %s (%v), want %s", text, got, err, want)
		}
	}
}

func FuzzParseResult(f *testing.F) {
	for _, text := range []string{"PROXY a:1; SOCKS5 [::1]:2; DIRECT", "HTTPS x", "SOCKS4 a", "; ;", "PROXY a:b:c"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		routes, err := ParseResult(text)
		if (err == nil) != (len(routes) > 0) {
			t.Fatalf("ParseResult(%q) = %v, %v", text, routes, err)
		}
		for _, r := range routes {
			if strings.ContainsAny(r.Address, " \r\n/@") || (r.Address == "") != (r.Kind == Direct || r.Kind == Blocked) {
				t.Errorf("ParseResult(%q) has %q", text, r)
			}
		}
	})
}
