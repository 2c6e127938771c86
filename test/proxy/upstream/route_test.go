package upstream_test

import (
	"encoding/json"
	"errors"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/portolan-net/portolan/internal/api"
	"github.com/portolan-net/portolan/internal/lab"
	"github.com/portolan-net/portolan/internal/stage"
	"github.com/portolan-net/portolan/internal/testimage"
)

// live bounds what counts at once: five times the promised second.
const live = 5 * time.Second

// secret is a password that is to be seen nowhere.
const secret = "streng-geheim"

func TestRoute(t *testing.T) {
	s := stage.New(t)
	checkRoutes(t, s)
}

func TestRouteOfUser(t *testing.T) {
	s := stage.NewUser(t)
	checkRoutes(t, s)
}

// asked is one that is asked for routes.
type asked struct {
	*testing.T
	*stage.Stage
	home string
}

func checkRoutes(t *testing.T, s *stage.Stage) {
	m := asked{t, s, filepath.Join(s.Lab.Dir, "home")}
	if s.User != nil {
		m.home = s.User.HomeDir
		m.ConfDir = filepath.Join(m.home, ".config", "portolan")
		s.Portolan(t, "settings", "set", "proxy.mode", "system") // makes the directories
	} else {
		s.Env = append(s.Env, "HOME="+m.home)
	}
	if err := os.MkdirAll(filepath.Join(m.home, ".config"), 0o755); err != nil {
		t.Fatal(err)
	}
	s.Env = append(s.Env, "GSETTINGS_BACKEND=keyfile") // dconf writes by way of a session's D-Bus only
	m.setKDE("kde-1")
	s.Portolan(t, "up")
	t.Run("system", func(t *testing.T) { m.on(t).checkSystem() })
	t.Run("GNOME", func(t *testing.T) { m.on(t).checkGNOME() })
	t.Run("manual", func(t *testing.T) { m.on(t).checkManual() })
	t.Run("same as host", func(t *testing.T) { m.on(t).checkSameAsHost() })
	t.Run("PAC", func(t *testing.T) { m.on(t).checkPAC() })
	t.Run("PAC file", func(t *testing.T) { m.on(t).checkPACFile() })
	t.Run("air-gapped", func(t *testing.T) { m.on(t).checkAirGapped() })
	t.Run("usage", func(t *testing.T) { m.on(t).checkUsage() })
	t.Run("secrets", func(t *testing.T) { m.on(t).checkSecrets() })
}

func (m asked) on(t *testing.T) asked { m.T = t; return m }

func (m asked) setKDE(host string) {
	m.Helper()
	text := "[Proxy Settings]\nProxyType=1\nhttpProxy=http://" + host + ".test 8080\nhttpsProxy=http://" + host + ".test 8443\nNoProxyFor=.kde.test\n"
	if err := os.WriteFile(filepath.Join(m.home, ".config/kioslaverc"), []byte(text), 0o644); err != nil {
		m.Fatal(err)
	}
}

func (m asked) set(key, value string) { m.Helper(); m.Portolan(m.T, "settings", "set", key, value) }

// route is what `portolan route` says: "ways because source: rule", the engine's
// and then the containers'.
func (m asked) route(url string) (engine, containers string) {
	m.Helper()
	var all api.Routes
	if err := json.Unmarshal([]byte(m.Portolan(m.T, "route", url, "--json")), &all); err != nil {
		m.Fatal(err)
	}
	if len(all.Routes) != 2 {
		m.Fatalf("route %s: %d answers, want 2", url, len(all.Routes))
	}
	text := func(r api.Route) string {
		return strings.Join(r.Ways, ", ") + " because " + r.Source + ": " + r.Rule
	}
	return text(all.Routes[0]), text(all.Routes[1])
}

// wants checks both answers; "" for any.
func (m asked) wants(url, engine, containers string) {
	m.Helper()
	gotEngine, gotContainers := m.route(url)
	if engine != "" && gotEngine != engine {
		m.Errorf("route %s: engine: %s; want %s", url, gotEngine, engine)
	}
	if containers != "" && gotContainers != containers {
		m.Errorf("route %s: containers: %s; want %s", url, gotContainers, containers)
	}
}

// becomes waits until the engine's answer contains a text.
func (m asked) becomes(url, want string) {
	m.Helper()
	got := ""
	defer func() {
		if m.Failed() {
			m.Logf("route %s: %s; status: %v", url, got, m.Status(m.T).Problems)
		}
	}()
	stage.Eventually(m.T, live, "route "+url+" is "+want, func() bool {
		got, _ = m.route(url)
		return strings.Contains(got, want)
	})
}

// What the user has set up counts, and its changes do.
func (m asked) checkSystem() {
	m.becomes("http://a.test/", "http://kde-1.test:8080 because KDE httpProxy: ")
	m.wants("https://a.test/", "http://kde-1.test:8443 because KDE httpsProxy: proxy http://kde-1.test:8443", "http://kde-1.test:8443 because KDE httpsProxy: proxy http://kde-1.test:8443")
	m.wants("https://x.kde.test/", "direct because KDE NoProxyFor: exclude .kde.test", "")
	m.setKDE("kde-2")
	m.becomes("http://a.test/", "http://kde-2.test:8080")
}

// GNOME's settings, as its own program writes and reads them, go before KDE's.
func (m asked) checkGNOME() {
	const schema = "org.gnome.system.proxy"
	set := func(words ...string) {
		m.Helper()
		if out, err := m.Command(m.Context(), "gsettings", append([]string{"set"}, words...)...).CombinedOutput(); err != nil {
			m.Fatalf("gsettings set %v: %v: %s", words, err, out)
		}
	}
	set(schema, "ignore-hosts", "['*.gnome.test']")
	for _, scheme := range []string{"http", "https"} {
		set(schema+"."+scheme, "host", scheme+".gnome.test")
		set(schema+"."+scheme, "port", "8080")
	}
	set(schema, "mode", "manual")
	m.becomes("https://a.test/", "http://https.gnome.test:8080 because GNOME "+schema+".https: ")
	m.wants("https://x.gnome.test/", "direct because GNOME "+schema+" ignore-hosts: exclude *.gnome.test", "")
	set(schema, "autoconfig-url", "http://"+lab.NeighbourV4+":1/proxy.pac")
	set(schema, "mode", "auto")
	m.becomes("https://a.test/", "blocked because PAC http://"+lab.NeighbourV4+":1/proxy.pac")
	set(schema, "mode", "none")
	m.becomes("http://a.test/", "http://kde-2.test:8080 because KDE httpProxy: ")
}

func (m asked) checkManual() {
	m.set("proxy", `{"mode": "manual", "https": "https://me:`+secret+`@p.test", "exclude": [".corp.test", "10.0.0.0/8"]}`)
	m.wants("https://a.test/", "https://p.test:443 because setting proxy.https: proxy https://p.test:443", "https://p.test:443 because setting proxy.https: proxy https://p.test:443")
	m.wants("http://a.test/", "direct because default: no proxy is configured for http", "")
	m.wants("10.1.2.3:443", "direct because setting proxy.exclude: exclude 10.0.0.0/8", "direct because setting proxy.exclude: exclude 10.0.0.0/8")
	m.wants("http://host.docker.internal:80", "direct because built in: names in docker.internal are always direct", "")
	m.set("containersProxy.mode", "none")
	m.wants("https://a.test/", "https://p.test:443 because setting proxy.https: proxy https://p.test:443", "direct because default: no proxy is configured")
}

func (m asked) checkSameAsHost() {
	m.set("containersProxy", `{"mode": "same-as-host", "exclude": ["own.test"]}`)
	m.wants("https://own.test/", "https://p.test:443 because setting proxy.https: proxy https://p.test:443", "direct because setting containersProxy.exclude: exclude own.test")
}

// A script is loaded from a URL in the lab's internet. One that is wrong denies.
func (m asked) checkPAC() {
	var script atomic.Value
	script.Store("function FindProxyForURL(url, host) {\n  if (isInNet(dnsResolve(host), '" + lab.WebV4 + "', '255.255.255.255')) return 'DIRECT';\n  return 'SOCKS5 s.test; PROXY reject.docker.internal:1';\n}")
	l, err := m.Lab.Neighbour.Listen("tcp", lab.NeighbourV4+":8000")
	if err != nil {
		m.Fatal(err)
	}
	server := &http.Server{ReadHeaderTimeout: time.Second, Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		text, _ := script.Load().(string)
		_, _ = w.Write([]byte(text))
	})}
	go func() { _ = server.Serve(l) }()
	defer server.Close()
	m.set("proxy", `{"mode": "manual", "pac": "http://`+lab.NeighbourV4+`:8000/proxy.pac"}`)
	m.becomes("https://a.test/", "socks5h://s.test:1080, blocked because PAC http://"+lab.NeighbourV4+":8000/proxy.pac: line 3: return")
	m.becomes("https://web.internet.test/", "direct because PAC http://"+lab.NeighbourV4+":8000/proxy.pac: line 2: if")
	m.set("proxy.pac", "http://"+lab.NeighbourV4+":8001/proxy.pac")
	m.becomes("https://a.test/", "blocked because PAC http://"+lab.NeighbourV4+":8001/proxy.pac: PAC script")
	m.problem("PAC script http://" + lab.NeighbourV4 + ":8001/proxy.pac: ")
	m.set("proxy.embeddedPac", "function FindProxyForURL() { return nothing }")
	m.wants("https://a.test/", "", "")
	m.becomes("https://a.test/", "nothing is not defined")
	m.set("proxy.embeddedPac", "function (")
	m.becomes("https://a.test/", "it is no JavaScript")
	m.problem("PAC script setting proxy.embeddedPac: it is no JavaScript")
}

// A file is followed. One that the daemon may not read is named, with where to
// put it.
func (m asked) checkPACFile() {
	path := filepath.Join(m.ConfDir, "default", "office.pac")
	write := func(text string) {
		m.Helper()
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			m.Fatal(err)
		}
	}
	write("function FindProxyForURL() { return 'PROXY one.test:1' }")
	m.set("proxy", `{"mode": "manual", "pac": "`+path+`"}`)
	m.becomes("https://a.test/", "http://one.test:1 because PAC "+path)
	write("function FindProxyForURL() { return 'PROXY two.test:1' }")
	m.becomes("https://a.test/", "http://two.test:1 because PAC "+path)
	far := filepath.Join(m.Lab.Dir, "far.pac")
	if err := os.WriteFile(far, []byte("function FindProxyForURL() { return 'DIRECT' }"), 0o644); err != nil {
		m.Fatal(err)
	}
	m.set("proxy.pac", far)
	m.becomes("https://a.test/", "blocked because PAC "+far)
	m.problem("the daemon reads PAC files in the profile's settings directory")
}

func (m asked) checkAirGapped() {
	m.set("proxy", `{"mode": "none"}`)
	m.set("containersProxy", `{"mode": "manual", "http": "", "https": "", "exclude": ["ok.test"], "pac": "", "embeddedPac": "", "transparentPorts": "*"}`)
	m.wants("https://a.test/", "direct because default: no proxy is configured", "blocked because setting containersProxy.transparentPorts: no proxy is configured, and what is not excluded is blocked")
	m.wants("https://ok.test/", "", "direct because setting containersProxy.exclude: exclude ok.test")
}

func (m asked) checkUsage() {
	m.LoadImage(m.T)
	m.Docker(m.T, "create", "--name", "web", testimage.Name, "web")
	for _, c := range []struct {
		args []string
		code int
		want string
	}{
		{[]string{"route"}, 2, "want one URL"},
		{[]string{"route", "http://x:0"}, 1, "want 1 to 65535"},
		{[]string{"route", "https://a.test", "--container", "nobody"}, 1, "no such container"},
		{[]string{"route", "https://a.test", "--container", "web"}, 0, "container web: blocked\n  because: setting containersProxy.transparentPorts: "},
		{[]string{"route", "https://a.test"}, 0, "because: default: no proxy is configured"},
	} {
		if out, code := m.TryPortolan(m.T, c.args...); code != c.code || !strings.Contains(out, c.want) {
			m.Errorf("portolan %v: code %d: %s; want %d, %s", c.args, code, out, c.code, c.want)
		}
	}
}

func (m asked) problem(want string) {
	m.Helper()
	stage.Eventually(m.T, live, "status says "+want, func() bool {
		return strings.Contains(strings.Join(m.Status(m.T).Problems, "\n"), want)
	})
}

// Passwords, in a URL and from a command, are in no list, status or log.
func (m asked) checkSecrets() {
	m.set("portolan.proxyUser", "me")
	m.set("portolan.proxyPasswordCommand", "echo no good >&2; false")
	m.problem("portolan.proxyPasswordCommand: run /bin/sh: exit status 1: no good")
	m.set("portolan.proxyPasswordCommand", "echo "+secret+" | tee "+m.home+"/ran")
	stage.Eventually(m.T, live, "the command runs", func() bool {
		text, _ := os.ReadFile(filepath.Join(m.home, "ran"))
		return string(text) == secret+"\n" && len(m.Status(m.T).Problems) == 0
	})
	m.set("portolan.proxyPasswordCommand", "cat "+m.home+"/ran")
	shown := m.Portolan(m.T, "settings", "set", "proxy", `{"mode": "manual", "https": "http://me:`+secret+`@p.test:1"}`)
	for _, args := range [][]string{
		{"settings", "list"}, {"settings", "list", "--json"}, {"settings", "get", "proxy"}, {"settings", "get", "proxy.https", "--json"}, {"settings", "explain", "proxy.https"},
		{"status", "--json"}, {"route", "https://a.test/", "--json"}, {"logs"}, {"doctor", "--json"},
	} {
		out, _ := m.TryPortolan(m.T, args...)
		shown += out
	}
	m.Docker(m.T, "create", "--name", "later", testimage.Name)
	shown += m.Docker(m.T, "info") + m.Docker(m.T, "info", "-f", "{{json .}}") + m.Docker(m.T, "inspect", "later", "bridge")
	// What the machine is told, the engine's configuration and all logs.
	for _, dir := range []string{m.RunDir, filepath.Join(m.StateDir, "default", "log")} {
		if files, err := os.ReadDir(dir); err != nil || len(files) == 0 {
			m.Errorf("nothing to search in %s: %v", dir, err)
		}
		out, err := m.Lab.Host.Command(m.Context(), "grep", "-rl", "--devices=skip", secret, dir).Output()
		if exit := new(exec.ExitError); len(out) > 0 || err != nil && (!errors.As(err, &exit) || exit.ExitCode() != 1) {
			m.Errorf("the password is in %s: %v", out, err)
		}
	}
	if strings.Contains(shown, secret) {
		for line := range strings.Lines(shown) {
			if strings.Contains(line, secret) {
				m.Errorf("the password is shown: %s", line)
			}
		}
	}
	if !strings.Contains(shown, "http://me:***@p.test:1") {
		m.Error("the URL is not shown at all")
	}
}
