package entry

import (
	"strings"
	"testing"
)

func TestParseProxy(t *testing.T) {
	for _, c := range []struct {
		text string
		want Proxy
		err  string
	}{
		{text: "http://proxy.example:3128", want: Proxy{Scheme: "http", Address: "proxy.example:3128"}},
		{text: "proxy.example:3128", want: Proxy{Scheme: "http", Address: "proxy.example:3128"}},
		{text: "HTTPS://proxy.example/", want: Proxy{Scheme: "https", Address: "proxy.example:443"}},
		{text: "http://proxy.example", want: Proxy{Scheme: "http", Address: "proxy.example:80"}},
		{text: "socks5://u:p%40w@[fd00::1]:1", want: Proxy{Scheme: "socks5", Address: "[fd00::1]:1", User: "u", Password: "p@w", HasPassword: true}},
		{text: "socks5h://u@s", want: Proxy{Scheme: "socks5h", Address: "s:1080", User: "u"}},
		{text: "socks://s", want: Proxy{Scheme: "socks5", Address: "s:1080"}},
		{text: "http://u:@s:1", want: Proxy{Scheme: "http", Address: "s:1", User: "u", HasPassword: true}},
		{text: "ftp://x", err: "want http, https, socks5 or socks5h"},
		{text: "http://", err: "names no host"},
		{text: "", err: "names no host"},
		{text: "http://x:0", err: "want 1 to 65535"},
		{text: "http://x:70000", err: "want 1 to 65535"},
		{text: "http://x:1/path", err: "has more than"},
		{text: "http://u:sec%ret@x:1", err: "%XX"},
		{text: "http://u:99887/sec@x:1", err: "%XX"},
		{text: "http://u:99887#sec@x:1", err: "%XX"},
		{text: "http://u:a%0d%0ab@x:1", err: "line break"},
		{text: "http://a%3ab:c@x:1", err: "colon in the user"},
	} {
		got, err := ParseProxy(c.text)
		if c.err == "" && err != nil || got != c.want {
			t.Errorf("ParseProxy(%q) = %+v, %v; want %+v", c.text, got, err, c.want)
		}
		if c.err != "" && (err == nil || !strings.Contains(err.Error(), c.err)) {
			t.Errorf("ParseProxy(%q): %v, want %q", c.text, err, c.err)
		}
		if err != nil && (strings.Contains(err.Error(), "sec") || strings.Contains(err.Error(), "99887")) {
			t.Errorf("ParseProxy(%q) tells a part of the password: %v", c.text, err)
		}
	}
}

func TestMask(t *testing.T) {
	for text, want := range map[string]string{
		"http://u:secret@p:1":  "http://u:***@p:1",
		"u:sec:r@et@p:1":       "u:***@p:1",
		"http://u@p:1":         "http://u@p:1",
		"http://p:1":           "http://p:1",
		"socks5://u:@p":        "socks5://u:***@p",
		"http://u:%zz@p":       "http://u:***@p",
		"http://u:a//b@c@p/x/": "http://u:***@p/x/",
		"":                     "",
	} {
		if got := Mask(text); got != want {
			t.Errorf("Mask(%q) = %q, want %q", text, got, want)
		}
	}
}

func TestExclusions(t *testing.T) {
	for _, c := range []struct {
		entry    string
		yes, not []string
	}{
		{"host", []string{"host:1", "HOST.:1"}, []string{"a.host:1", "ahost:1"}},
		{"host:80", []string{"host:80"}, []string{"host:81"}},
		{".corp", []string{"corp:1", "a.corp:1", "b.a.CORP:1"}, []string{"acorp:1", "corp.x:1"}},
		{"*.corp:443", []string{"corp:443", "a.corp:443"}, []string{"a.corp:80"}},
		{"web*.corp", []string{"web1.corp:1"}, []string{"db.corp:1"}},
		{"10.1.2.*", []string{"10.1.2.3:1"}, []string{"10.1.3.3:1"}},
		{"*", []string{"x:1", "1.2.3.4:1", "::1:1"}, nil},
		{"10.0.0.1", []string{"10.0.0.1:1", "::ffff:10.0.0.1:1"}, []string{"10.0.0.2:1", "x:1"}},
		{"10.0.0.1:8", []string{"10.0.0.1:8"}, []string{"10.0.0.1:9"}},
		{"10.9.9.9/8", []string{"10.255.0.1:1"}, []string{"11.0.0.1:1", "10.example:1"}},
		{"fd00::/8", []string{"fd12::1:1"}, []string{"fe80::1:1"}},
		{"[fd00::1]:8", []string{"fd00::1:8"}, []string{"fd00::1:9"}},
		{"fd00::1", []string{"fd00::1:9"}, []string{"fd00::2:9"}},
		{"<local>", []string{"intranet:80"}, []string{"a.b:80", "10.0.0.1:1"}},
	} {
		list, err := ParseExclusions([]string{c.entry})
		if err != nil || len(list) != 1 || list[0].String() != c.entry {
			t.Fatalf("ParseExclusions(%q) = %v, %v", c.entry, list, err)
		}
		for _, to := range c.yes {
			if !list[0].Match(cut(to)) {
				t.Errorf("%s does not match %s", c.entry, to)
			}
		}
		for _, to := range c.not {
			if list[0].Match(cut(to)) {
				t.Errorf("%s matches %s", c.entry, to)
			}
		}
	}
}

// cut is for texts such as ::1:80.
func cut(to string) (string, uint16) {
	i := strings.LastIndexByte(to, ':')
	var port uint16
	for _, digit := range to[i+1:] {
		port = port*10 + uint16(digit-'0')
	}
	return to[:i], port
}

func TestExclusionLists(t *testing.T) {
	list, err := ParseExclusions([]string{"a, .b", "", "c;d e"})
	if err != nil || len(list) != 5 {
		t.Errorf("ParseExclusions = %v, %v, want 5 entries", list, err)
	}
	for _, text := range []string{"10.0.0.0/99", "host:0", "host:http", ".", "a@b", "x/y", "[::1]:x"} {
		if list, err := ParseExclusions([]string{text}); err == nil || !strings.Contains(err.Error(), text) {
			t.Errorf("ParseExclusions(%q) = %v, %v, want an error that names it", text, list, err)
		}
	}
}

func FuzzExclusions(f *testing.F) {
	for _, text := range []string{"a,.b,*.c:80", "[::1]:8", "10.0.0.0/8", "*", "<local>", "a*b", "::ffff:1.2.3.4/100"} {
		f.Add(text, "host.example")
	}
	f.Fuzz(func(t *testing.T, text, host string) {
		list, err := ParseExclusions([]string{text})
		if err != nil {
			return
		}
		for _, e := range list {
			_ = e.Match(host, 80)
			again, err := ParseExclusions([]string{e.String()})
			if err != nil || len(again) != 1 || again[0] != e {
				t.Errorf("%q is not the same when read again: %v, %v", e, again, err)
			}
		}
	})
}

func FuzzProxy(f *testing.F) {
	for _, text := range []string{"http://u:p@h:1", "socks5h://[::1]", "h", "://", "http://u:%zz@x"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		_ = Mask(text)
		p, err := ParseProxy(text)
		if err == nil && (strings.ContainsAny(p.User+p.Password, "\r\n") || strings.ContainsAny(p.Address, " \r\n")) {
			t.Errorf("ParseProxy(%q) = %+v", text, p)
		}
	})
}

func TestPorts(t *testing.T) {
	p, err := ParsePorts("80, 443")
	if err != nil || !p.Has(80) || !p.Has(443) || p.Has(81) || p.All {
		t.Errorf("ParsePorts = %+v, %v", p, err)
	}
	if p, err := ParsePorts("*"); err != nil || !p.Has(1) {
		t.Errorf("ParsePorts(*) = %+v, %v", p, err)
	}
	if p, err := ParsePorts(""); err != nil || p.Has(80) {
		t.Errorf("ParsePorts of nothing = %+v, %v", p, err)
	}
	for _, text := range []string{"0", "http", "80-90", "70000"} {
		if p, err := ParsePorts(text); err == nil {
			t.Errorf("ParsePorts(%q) = %+v", text, p)
		}
	}
}

func TestParsePAC(t *testing.T) {
	for text, want := range map[string]string{
		"http://wpad/x": "", "https://a.example/p.pac?x": "", "/etc/proxy.pac": "/etc/proxy.pac", "file:///etc/a%20b.pac": "/etc/a b.pac", "file://localhost/x": "/x",
		"proxy.pac": "error", "ftp://x/y": "error", "http://": "error", "file://other/x": "error", "http://u:p@a/x": "error", "": "error",
	} {
		path, err := ParsePAC(text)
		if err != nil {
			path = "error"
		}
		if path != want {
			t.Errorf("ParsePAC(%q) = %q (%v), want %q", text, path, err, want)
		}
	}
}
