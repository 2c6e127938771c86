package proxy

import (
	"fmt"
	"slices"
	"strings"
	"testing"
)

func TestDecide(t *testing.T) {
	both := Config{HTTP: "http://a:1", HTTPS: "https://b:2", HTTPSource: "setting proxy.http", HTTPSSource: "setting proxy.https", Exclude: []Exclude{{"setting proxy.exclude", []string{".corp", "10.0.0.0/8"}}}}
	socks := Config{HTTPS: "socks5://s:3"}
	closed := Config{Closed: true, ClosedSource: "setting containersProxy.transparentPorts", Exclude: []Exclude{{"air", []string{"ok.example"}}}}
	pac := Config{Script: NewScript("u", `function FindProxyForURL(url, host) { return "PROXY A:1; DIRECT" }`, testHost()), HTTP: "http://u:p@a:1", Exclude: []Exclude{{Entries: []string{".corp"}}}}
	for _, c := range []struct {
		name     string
		config   Config
		to, want string
	}{
		{"nothing", Config{}, "https://x.example/", "[direct] default: no proxy is configured"},
		{"http", both, "http://x.example/", "[http://a:1] setting proxy.http: proxy http://a:1"},
		{"https", both, "x.example:443", "[https://b:2] setting proxy.https: proxy https://b:2"},
		{"port 80 is http", both, "http://x.example", "[http://a:1] setting proxy.http: proxy http://a:1"},
		{"ssh", both, "ssh://x.example", "[https://b:2] setting proxy.https: proxy https://b:2"},
		{"excluded", both, "https://www.corp/", "[direct] setting proxy.exclude: exclude .corp"},
		{"excluded network", both, "10.2.3.4:80", "[direct] setting proxy.exclude: exclude 10.0.0.0/8"},
		{"ours", both, "http://host.docker.internal:8080", "[direct] built in: names in docker.internal are always direct"},
		{"localhost", both, "localhost:5000", "[direct] built in: names in localhost are always direct"},
		{"loopback", both, "http://[::1]:80", "[direct] built in: loopback is always direct"},
		{"link-local", both, "http://169.254.169.254", "[direct] built in: link-local addresses are always direct"},
		{"SOCKS serves both", socks, "http://x.example", "[socks5://s:3] https: proxy socks5://s:3"},
		{"one only", Config{HTTP: "a:1"}, "https://x.example", "[direct] default: no proxy is configured for https"},
		{"closed", closed, "https://x.example", "[blocked] setting containersProxy.transparentPorts: no proxy is configured, and what is not excluded is blocked"},
		{"closed for the host, too", closed, "host.docker.internal:1", "[blocked] setting containersProxy.transparentPorts: no proxy is configured, and what is not excluded is blocked"},
		{"closed but for", closed, "ok.example", "[direct] air: exclude ok.example"},
		{"PAC", pac, "https://x.example", "[http://A:1 direct] PAC u: line 1: function FindProxyForURL(url, host) { return \"PROXY A:1; DIRECT\" }"},
		{"PAC and exclusion", pac, "https://x.corp", "[direct] : exclude .corp"},
	} {
		to, err := ParseDestination(c.to)
		if err != nil {
			t.Fatal(err)
		}
		p := compiled(t, c.config)
		d, err := p.Decide(t.Context(), to)
		if got := fmt.Sprintf("%v %s: %s", d.Routes, d.Source, d.Rule); err != nil || got != c.want {
			t.Errorf("%s: %s, %v; want %s", c.name, got, err, c.want)
		}
	}
	d, _ := compiled(t, pac).Decide(t.Context(), Destination{Host: "x.example", Port: 443})
	if d.Routes[0].Authorization() == "" {
		t.Error("a proxy of the script does not get the credentials of the settings")
	}
	if p := compiled(t, both); !slices.Equal(p.Exclusions(), []string{".corp", "10.0.0.0/8"}) || !p.Configured() || p.Closed() {
		t.Errorf("policy %+v", p)
	}
	var none *Policy
	if d, err := none.Decide(t.Context(), Destination{Host: "x", Port: 1}); err != nil || !d.Direct() || none.Configured() || none.Exclusions() != nil {
		t.Errorf("no policy: %+v, %v", d, err)
	}
}

func TestCompileRefuses(t *testing.T) {
	for _, c := range []struct {
		config Config
		want   string
	}{
		{Config{HTTP: "ftp://a:1", HTTPSource: "setting proxy.http"}, "setting proxy.http: scheme \"ftp\""},
		{Config{HTTPS: "http://a:99999"}, "https: port"},
		{Config{Exclude: []Exclude{{"setting proxy.exclude", []string{"10.0.0.0/77"}}}}, "setting proxy.exclude: \"10.0.0.0/77\""},
		{Config{HTTPS: "socks5://u:" + strings.Repeat("x", 300) + "@a:1"}, "at most 255 bytes"},
	} {
		if p, err := Compile(c.config); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("Compile(%+v) = %v, %v; want %q", c.config, p, err, c.want)
		}
	}
}

func TestParseDestination(t *testing.T) {
	for text, want := range map[string]string{
		"https://a.example/x?y": "a.example:443 https://a.example/", "http://u:p@a:8080/x": "a:8080 http://a:8080/x",
		"a.example": "a.example:443 https://a.example/", "a.example:22": "a.example:22 https://a.example:22/",
		"[fd00::1]:443": "[fd00::1]:443 https://[fd00::1]/", "1.2.3.4:80": "1.2.3.4:80 http://1.2.3.4/", "foo://x": "error", "http://x:0": "error", "": "error", "a b": "error",
	} {
		d, err := ParseDestination(text)
		got := d.Address() + " " + d.url()
		if err != nil {
			got = "error"
		}
		if got != want {
			t.Errorf("ParseDestination(%q) = %s (%v), want %s", text, got, err, want)
		}
	}
}
