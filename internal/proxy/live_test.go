package proxy

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/portolan-net/portolan/internal/system"
)

// way is what a policy says about a URL, in one line.
func way(t *testing.T, p *Policy, url string) string {
	t.Helper()
	to, err := ParseDestination(url)
	if err != nil {
		t.Fatal(err)
	}
	d, _ := p.Decide(t.Context(), to)
	return fmt.Sprintf("%v %s: %s", d.Routes, d.Source, d.Rule)
}

// started is a Live that runs, with a loader.
func started(t *testing.T, load Loader) *Live {
	t.Helper()
	l := NewLive(NewSource(nil, nil), testHost(), load, slog.New(slog.DiscardHandler))
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- l.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	return l
}

func noLoad(context.Context, string) (string, error) { return "", errors.New("nothing is loaded here") }

func TestLiveModes(t *testing.T) {
	manual := Choice{Group: "proxy", Mode: ModeManual, HTTPS: "http://m:1", Exclude: []string{".own"}}
	host := system.Proxies{HTTPS: "http://u:p@s:1", Exclude: []string{".sys", "10.0.0.0/99"}, Source: "environment", Names: system.ProxyNames{HTTPS: "https_proxy", Exclude: "no_proxy"}}
	containers := func(mode Mode) Choice {
		return Choice{Group: "containersProxy", Mode: mode, Exclude: []string{"c.test"}}
	}
	for _, c := range []struct {
		name               string
		engine, containers Choice
		url                string
		wantEngine, want   string
	}{
		{"manual and same", manual, containers(ModeSame), "https://a.test", "[http://m:1] setting proxy.https", "[http://m:1] setting proxy.https"},
		{"exclusions add up", manual, containers(ModeSame), "https://c.test", "[http://m:1] setting", "[direct] setting containersProxy.exclude: exclude c.test"},
		{"the engine's count as well", manual, containers(ModeSame), "https://x.own", "[direct] setting proxy.exclude", "[direct] setting proxy.exclude: exclude .own"},
		{"system", Choice{Group: "proxy", Mode: ModeSystem, HTTPS: "http://unused:1"}, containers(ModeNone), "https://a.test", "[http://s:1] environment https_proxy", "[direct] default"},
		{"system's exclusions", Choice{Group: "proxy", Mode: ModeSystem}, containers(ModeSystem), "https://x.sys", "[direct] environment no_proxy: exclude .sys", "[direct] environment no_proxy"},
		{"none", Choice{Group: "proxy", Mode: ModeNone}, containers(ModeSystem), "https://a.test", "[direct] default", "[http://s:1] environment https_proxy"},
	} {
		l := NewLive(NewSource(nil, nil), testHost(), noLoad, slog.New(slog.DiscardHandler))
		l.SetHost(host, "")
		l.Choose(Choices{Engine: c.engine, Containers: c.containers})
		if got := way(t, l.Source.Engine(), c.url); !strings.HasPrefix(got, c.wantEngine) {
			t.Errorf("%s: engine %s, want %s", c.name, got, c.wantEngine)
		}
		if got := way(t, l.Source.Containers(), c.url); !strings.HasPrefix(got, c.want) {
			t.Errorf("%s: containers %s, want %s", c.name, got, c.want)
		}
	}
}

// Without any proxy, containers of "*" are closed in every mode.
func TestLiveClosed(t *testing.T) {
	for _, mode := range []Mode{ModeManual, ModeSystem, ModeSame, ModeNone} {
		l := NewLive(NewSource(nil, nil), testHost(), noLoad, slog.New(slog.DiscardHandler))
		l.Choose(Choices{Engine: Choice{Mode: ModeSystem}, Containers: Choice{Group: "c", Mode: mode, Closed: true}})
		if p := l.Source.Containers(); !p.Closed() || l.Source.Engine().Closed() {
			t.Errorf("%s: closed is %v", mode, p.Closed())
		}
		l.Choose(Choices{Containers: Choice{Group: "c", Mode: ModeManual, HTTP: "p:1", Closed: true}})
		if p := l.Source.Containers(); p.Closed() {
			t.Errorf("%s: closed in spite of a proxy", mode)
		}
	}
}

// What the host says wrongly is left out, and told.
func TestLiveProblems(t *testing.T) {
	l := NewLive(NewSource(nil, nil), testHost(), noLoad, slog.New(slog.DiscardHandler))
	l.SetHost(system.Proxies{
		HTTP: "ftp://u:geheim@x", HTTPS: "ok:1", PAC: "relative.pac", Exclude: []string{"10.0.0.0/99", "good"},
		Source: "KDE", Names: system.ProxyNames{HTTP: "httpProxy", HTTPS: "httpsProxy", PAC: "script", Exclude: "NoProxyFor"},
	}, "")
	l.Choose(Choices{Engine: Choice{Mode: ModeSystem}, Containers: Choice{Mode: ModeSame}})
	all := strings.Join(l.Problems(), "\n")
	for _, want := range []string{"KDE httpProxy: scheme", "KDE script: want a URL", `KDE NoProxyFor: "10.0.0.0/99"`} {
		if !strings.Contains(all, want) {
			t.Errorf("problems %s lack %s", all, want)
		}
	}
	if got := way(t, l.Source.Engine(), "https://a.test"); !strings.HasPrefix(got, "[http://ok:1] KDE httpsProxy") || strings.Contains(all, "geheim") {
		t.Errorf("way %s, problems %s", got, all)
	}
}

// A password of a command goes to proxies that name a user, or nobody where the
// settings name one.
func TestLivePassword(t *testing.T) {
	l := NewLive(NewSource(nil, nil), testHost(), noLoad, slog.New(slog.DiscardHandler))
	l.Choose(Choices{User: "me", Engine: Choice{Mode: ModeManual, HTTP: "http://p:1", HTTPS: "http://other@p:2"}, Containers: Choice{Mode: ModeManual, HTTPS: "http://a:b@p:3"}})
	l.SetHost(system.Proxies{}, "word")
	for _, c := range []struct {
		p         *Policy
		url, want string
	}{
		{l.Source.Engine(), "http://x", "me word"}, {l.Source.Engine(), "https://x", "other word"}, {l.Source.Containers(), "https://x", "a b"},
	} {
		to, err := ParseDestination(c.url)
		if err != nil {
			t.Fatal(err)
		}
		d, err := c.p.Decide(t.Context(), to)
		if err != nil {
			t.Fatal(err)
		}
		if got := d.Routes[0].login; got == nil || got.user+" "+got.password != c.want {
			t.Errorf("%s: login %+v, want %s", c.url, got, c.want)
		}
	}
}

// Who waits is told of changes, and of nothing else.
func TestLiveTells(t *testing.T) {
	l := NewLive(NewSource(nil, nil), testHost(), noLoad, slog.New(slog.DiscardHandler))
	c := Choices{Engine: Choice{Mode: ModeManual, HTTP: "p:1"}, Containers: Choice{Mode: ModeSame}}
	changed := l.Source.Changed()
	l.Choose(c)
	select {
	case <-changed:
	default:
		t.Error("a change is not told")
	}
	changed = l.Source.Changed()
	l.Choose(c)
	l.SetHost(system.Proxies{HTTP: "unused:1"}, "")
	select {
	case <-changed:
		t.Error("nothing changed, and was told")
	default:
	}
}

// A script from a URL: denies until it is there, and again when it never was; one
// that was there stays.
func TestLivePAC(t *testing.T) {
	var code atomic.Int32
	code.Store(http.StatusNotFound)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(int(code.Load()))
		fmt.Fprint(w, "function FindProxyForURL() { return 'PROXY p:1' }")
	}))
	defer server.Close()
	l := started(t, NewLoader(nil))
	choose := func(exclude string) {
		l.Choose(Choices{Engine: Choice{Mode: ModeManual, PAC: server.URL, Exclude: []string{exclude}}, Containers: Choice{Mode: ModeNone}})
	}
	becomes := func(want string) {
		t.Helper()
		got := ""
		for late := time.Now().Add(10 * time.Second); time.Now().Before(late); time.Sleep(5 * time.Millisecond) {
			if got = way(t, l.Source.Engine(), "https://a.test"); strings.Contains(got, want) {
				return
			}
		}
		t.Fatalf("%s, want %s", got, want)
	}
	choose("x")
	if got := way(t, l.Source.Engine(), "https://a.test"); !strings.HasPrefix(got, "[blocked]") {
		t.Errorf("before it is loaded: %s", got)
	}
	becomes("404 Not Found")
	if p := strings.Join(l.Problems(), "\n"); !strings.Contains(p, "404 Not Found") {
		t.Errorf("problems: %s", p)
	}
	code.Store(http.StatusOK)
	l.again()
	becomes("[http://p:1] PAC " + server.URL)
	code.Store(http.StatusInternalServerError)
	l.again()
	for late := time.Now().Add(10 * time.Second); len(l.Problems()) == 0 && time.Now().Before(late); time.Sleep(5 * time.Millisecond) {
	}
	if p := strings.Join(l.Problems(), "\n"); !strings.Contains(p, "500 Internal Server Error; the last one stays in use") {
		t.Errorf("problems: %s", p)
	}
	becomes("[http://p:1] PAC " + server.URL)
}

// again makes all scripts due.
func (l *Live) again() {
	l.mu.Lock()
	for _, one := range l.scripts {
		one.due = time.Time{}
	}
	l.mu.Unlock()
	l.poke()
}

func TestLoaderRefuses(t *testing.T) {
	dir := t.TempDir()
	big := filepath.Join(dir, "big.pac")
	if err := os.WriteFile(big, make([]byte, maxScript+1), 0o600); err != nil {
		t.Fatal(err)
	}
	load := NewLoader(nil)
	for location, want := range map[string]string{
		big: "more than", dir: "no regular file", dir + "/none": "no such file", "relative": "want a URL", "http://127.0.0.1:1/x": "refused",
	} {
		if text, err := load(t.Context(), location); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %q, %v; want %s", location, text, err, want)
		}
	}
}
