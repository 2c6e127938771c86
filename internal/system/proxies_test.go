package system

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"
)

var _, _ ProxySource = (*ProxyHost)(nil), FakeProxies(nil)

func TestProxyVariables(t *testing.T) {
	for _, c := range []struct {
		env  map[string]string
		want Proxies
	}{
		{nil, Proxies{}},
		{map[string]string{"NO_PROXY": "x"}, Proxies{}},
		{
			map[string]string{"http_proxy": "a:1", "HTTP_PROXY": "b:1", "HTTPS_PROXY": "c:1", "no_proxy": "x.y, .z,10.0.0.1,10.0.0.0/8,*.q,w:80,::1"},
			Proxies{HTTP: "a:1", HTTPS: "c:1", Exclude: []string{".x.y", ".z", "10.0.0.1", "10.0.0.0/8", "*.q", ".w:80", "::1"}, Source: "s", Names: ProxyNames{HTTP: "http_proxy", HTTPS: "HTTPS_PROXY", Exclude: "no_proxy"}},
		},
		{
			map[string]string{"all_proxy": "socks5://a:1", "http_proxy": "b:1"},
			Proxies{HTTP: "b:1", HTTPS: "socks5://a:1", Source: "s", Names: ProxyNames{HTTP: "http_proxy", HTTPS: "all_proxy", Exclude: "no_proxy"}},
		},
	} {
		if got := variables(func(name string) string { return c.env[name] }, "s"); !reflect.DeepEqual(got, c.want) {
			t.Errorf("%v: %+v, want %+v", c.env, got, c.want)
		}
	}
}

// gnomeText is what gsettings prints.
const gnomeText = `org.gnome.system.proxy autoconfig-url 'http://wpad.corp/p.pac'
org.gnome.system.proxy ignore-hosts ['localhost', '127.0.0.0/8', '::1', '*.corp']
org.gnome.system.proxy mode 'manual'
org.gnome.system.proxy use-same-proxy true
org.gnome.system.proxy.ftp host ''
org.gnome.system.proxy.ftp port 0
org.gnome.system.proxy.http authentication-password 'p\'w'
org.gnome.system.proxy.http authentication-user 'me'
org.gnome.system.proxy.http enabled false
org.gnome.system.proxy.http host 'proxy.corp'
org.gnome.system.proxy.http port 8080
org.gnome.system.proxy.http use-authentication true
org.gnome.system.proxy.https host ''
org.gnome.system.proxy.https port 0
org.gnome.system.proxy.socks host 'socks.corp'
org.gnome.system.proxy.socks port 1080
`

func TestParseGNOME(t *testing.T) {
	p := parseGNOME([]byte(gnomeText))
	if p.HTTP != "http://me:p%27w@proxy.corp:8080" || p.HTTPS != "socks5://socks.corp:1080" || p.PAC != "" ||
		strings.Join(p.Exclude, " ") != "localhost 127.0.0.0/8 ::1 *.corp" || p.Names.HTTPS != "org.gnome.system.proxy.socks" {
		t.Errorf("manual: %+v", p.String()+p.HTTP+p.HTTPS)
	}
	if p := parseGNOME([]byte(strings.Replace(gnomeText, "'manual'", "'auto'", 1))); p.PAC != "http://wpad.corp/p.pac" || p.HTTP != "" {
		t.Errorf("auto: %+v", p)
	}
	if p := parseGNOME([]byte("org.gnome.system.proxy mode 'auto'\n")); p.PAC != wpad {
		t.Errorf("auto without a URL: %+v", p)
	}
	if p := parseGNOME([]byte(strings.Replace(gnomeText, "'manual'", "'none'", 1))); p.any() || p.Source != "" {
		t.Errorf("none: %+v", p)
	}
}

func TestParseKDE(t *testing.T) {
	for text, want := range map[string]Proxies{
		"[Proxy Settings]\nProxyType=1\nhttpProxy=http://a 8080\nhttpsProxy=http://b:3128/\nNoProxyFor=x,.y\n": {HTTP: "http://a:8080", HTTPS: "http://b:3128", Exclude: []string{"x", ".y"}},
		"[Proxy Settings][$i]\n[Proxy Settings]\nProxyType=1\nsocksProxy=socks://s 1080\n":                     {HTTP: "socks5://s:1080", HTTPS: "socks5://s:1080"},
		"[Proxy Settings]\nProxyType=2\nProxy Config Script=http://w/p\nhttpProxy=http://a 1\n":                {PAC: "http://w/p"},
		"[Proxy Settings]\nProxyType=3\n":                                  {PAC: wpad},
		"[Proxy Settings]\nProxyType=0\nhttpProxy=http://a 1\n":            {},
		"[Other]\nProxyType=1\nhttpProxy=http://a 1\n[Proxy Settings]\n\n": {},
	} {
		got := parseKDE([]byte(text))
		got.Source, got.Names = "", ProxyNames{}
		if !reflect.DeepEqual(got, want) {
			t.Errorf("%q: %+v, want %+v", text, got, want)
		}
	}
}

// proxyHost is a user with a home directory.
func proxyHost(t *testing.T, env map[string]string) *ProxyHost {
	dir := t.TempDir()
	return &ProxyHost{
		Home: dir, Getenv: func(name string) string { return env[name] }, Environment: filepath.Join(dir, "environment"),
		Run: func(context.Context, []string) ([]byte, error) {
			return os.ReadFile(filepath.Join(dir, ".config/dconf/user"))
		},
		Log: slog.New(slog.DiscardHandler),
	}
}

// Every place counts when those before it say nothing, and changes are seen.
func TestFollowProxies(t *testing.T) {
	h := proxyHost(t, map[string]string{"http_proxy": "old:1"})
	write := func(path, text string) {
		t.Helper()
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path+".new", []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(path+".new", path); err != nil {
			t.Fatal(err)
		}
	}
	write(h.Environment, "# x\nhttp_proxy=\"old:1\"\n")
	seen, ended := make(chan Proxies, 100), make(chan error, 1)
	ctx, cancel := context.WithCancel(t.Context())
	go func() { ended <- h.FollowProxies(ctx, func(p Proxies) { seen <- p }) }()
	wait := func(source, http string) {
		t.Helper()
		for late := time.After(effect); ; {
			select {
			case p := <-seen:
				if p.Source == source && p.HTTP == http {
					return
				}
			case <-late:
				t.Fatalf("no %s from %s within %s", http, source, effect)
			}
		}
	}
	wait(h.Environment, "old:1")
	write(h.Environment, "http_proxy=new:1\n")
	wait(h.Environment, "new:1")
	write(h.kdeFile(), "[Proxy Settings]\nProxyType=1\nhttpProxy=http://kde 1\n")
	wait("KDE", "http://kde:1")
	write(h.gnomeFiles()[0], gnomeText)
	wait("GNOME", "http://me:p%27w@proxy.corp:8080")
	write(h.gnomeFiles()[0], "org.gnome.system.proxy mode 'none'\n")
	wait("KDE", "http://kde:1")
	if err := os.Remove(h.kdeFile()); err != nil {
		t.Fatal(err)
	}
	wait(h.Environment, "new:1")
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

// The environment of the session goes before desktops, unless it is the file's.
func TestSessionGoesFirst(t *testing.T) {
	h := proxyHost(t, map[string]string{"https_proxy": "session:1"})
	if err := os.WriteFile(h.Environment, []byte("https_proxy=file:1\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if p := h.read(t.Context(), false); p.HTTPS != "session:1" || p.Source != "environment" {
		t.Errorf("read = %+v", p)
	}
}

func FuzzProxyFiles(f *testing.F) {
	f.Add([]byte(gnomeText))
	f.Add([]byte("[Proxy Settings]\nProxyType=1\nhttpProxy=http://a 8080\n"))
	f.Add([]byte("http_proxy='x\n\"=\"\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		for _, p := range []Proxies{parseGNOME(text), parseKDE(text)} {
			if p.any() != (p.Source != "") {
				t.Errorf("%q: %+v", text, p)
			}
		}
		parseEnvironment(text)
	})
}
