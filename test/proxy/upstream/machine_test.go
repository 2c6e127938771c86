package upstream_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/portolan-net/portolan/internal/lab"
	"github.com/portolan-net/portolan/internal/stage"
	"github.com/portolan-net/portolan/internal/testimage"
)

// What the lab's internet serves beside its web server, by name.
const (
	webName = "web.internet.test"
	tlsPort = "443"
	mail    = "2525" // where the server speaks first
	// elsewhere is where nobody is: who connects to it and is answered has been
	// led by the name that it wrote.
	elsewhere = lab.EmptyV4
)

// machine is a Portolan on a host whose only way out are the proxies.
type machine struct {
	*stage.Stage
	office
	stopSquid func()
}

// newMachine starts everything on s; direct leaves the host its own ways.
func newMachine(t *testing.T, s *stage.Stage, direct bool) machine {
	t.Helper()
	m := machine{Stage: s, office: newOffice(t, s.Lab)}
	if !direct {
		ca, stop := m.startSquid()
		m.stopSquid = stop
		m.trust(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: ca.Raw}))
		m.startTinyproxy()
		m.startDante()
		m.startRegistry()
		m.choose("", "", nil)                                                               // the engine's options count from its start
		for family, resolver := range map[string]string{"-4": lab.DNSV4, "-6": lab.DNSV6} { // names are known inside
			route := strings.Fields(s.Lab.Host.Run(t, "ip", family, "route", "show", "default"))
			s.Lab.Host.Run(t, "ip", append([]string{family, "route", "add", resolver}, route[1:5]...)...)
			s.Lab.Host.Run(t, "ip", family, "route", "del", "default")
		}
	}
	m.serveTLS()
	m.serveMail()
	s.Portolan(t, "settings", "set", "portolan.socks", "127.0.0.1:1080")
	s.Portolan(t, "up")
	s.LoadImage(t)
	return m
}

// trust gives the lab's host a CA store of its own with one certificate.
func (m machine) trust(text []byte) {
	m.t.Helper()
	dir := filepath.Join(m.dir, "certs")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		m.t.Fatal(err)
	}
	m.write("certs/ca-certificates.crt", string(text), 0o644)
	m.lab.Host.Run(m.t, "mount", "--bind", dir, "/etc/ssl/certs")
}

// choose sets containersProxy, and waits until it is in force.
func (m machine) choose(url, transparent string, exclude []string) {
	m.t.Helper()
	text, err := json.Marshal(map[string]any{
		"proxy":           map[string]any{"mode": "manual", "http": url, "https": url},
		"linuxVM":         map[string]any{"dockerDaemonOptions": json.RawMessage(engineOptions)},
		"containersProxy": map[string]any{"mode": "manual", "http": url, "https": url, "exclude": append([]string{}, exclude...), "transparentPorts": transparent},
		"portolan":        map[string]any{"proxyVariables": false, "socks": "127.0.0.1:1080"},
	})
	if err != nil {
		m.t.Fatal(err)
	}
	path := filepath.Join(m.ConfDir, "default", "settings.json")
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		m.t.Fatal(err)
	}
	if err := os.WriteFile(path, text, 0o600); err != nil {
		m.t.Fatal(err)
	}
	if out, code := m.TryPortolan(m.t, "settings", "apply"); code != 0 && !strings.Contains(out, "not running") {
		m.t.Logf("settings apply: %s", out)
	}
}

// serveTLS shows a client who it is to the server, over TLS.
func (m machine) serveTLS() {
	m.t.Helper()
	text, _ := m.certificate()
	cert, err := tls.X509KeyPair([]byte(text), []byte(text))
	if err != nil {
		m.t.Fatal(err)
	}
	server := &http.Server{
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			host, _, _ := net.SplitHostPort(r.RemoteAddr)
			fmt.Fprintln(w, host)
		}),
		TLSConfig: &tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS12}, ReadHeaderTimeout: time.Minute,
		ErrorLog: slog.NewLogLogger(slog.DiscardHandler, slog.LevelInfo),
	}
	for _, addr := range []string{lab.WebV4, lab.WebV6} {
		ln, err := m.lab.Internet.Listen("tcp", net.JoinHostPort(addr, tlsPort))
		if err != nil {
			m.t.Fatal(err)
		}
		go func() { _ = server.ServeTLS(ln, "", "") }()
	}
	m.t.Cleanup(func() { _ = server.Close() })
}

// serveMail greets each client.
func (m machine) serveMail() {
	m.t.Helper()
	m.serve(m.lab.Internet, net.JoinHostPort(lab.WebV4, mail), func(conn net.Conn) {
		_, _ = io.WriteString(conn, "220 ready\r\n")
		_, _ = io.Copy(conn, conn)
	})
}

// serve hands each connection to a node's address to handle, until the test ends.
func (m machine) serve(node *lab.Node, addr string, handle func(net.Conn)) {
	m.t.Helper()
	ln, err := node.Listen("tcp", addr)
	if err != nil {
		m.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(m.t.Context()))
	go func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				defer context.AfterFunc(ctx, func() { conn.Close() })()
				handle(conn)
			}()
		}
	}()
	m.t.Cleanup(func() { cancel(); ln.Close() })
}

// programs are what lets a container run the host's curl and Python.
func programs() []string {
	return []string{"-v", "/usr:/usr:ro", "-v", "/lib:/lib:ro", "-v", "/lib64:/lib64:ro"}
}

// curl runs the host's curl in a container, and returns its output and exit code.
func (m machine) curl(args ...string) (string, int) {
	m.t.Helper()
	words := append([]string{"run", "--rm"}, programs()...)
	words = append(words, "--entrypoint", "/usr/bin/curl", testimage.Name, "-sS", "-k", "-m", "35")
	out, code := m.TryDocker(m.t, append(words, args...)...)
	return strings.TrimSpace(out), code
}

const forward = "http://http.docker.internal:3128"

// python is what a Python program of three lines does.
const python = `
import ssl, sys, urllib.request
handlers = [urllib.request.HTTPSHandler(context=ssl._create_unverified_context())]
print(urllib.request.build_opener(*handlers).open(sys.argv[1], timeout=30).read().decode().strip())`

// fromNeighbour reports that a server saw the proxies' computer.
func fromNeighbour(page string) bool {
	page = strings.TrimSpace(page)
	return page == lab.NeighbourV4 || page == lab.NeighbourV6
}

// visits are a plain and a TLS page, asked for by three clients; each must be
// answered as the proxy's client.
func (m machine) visits(t *testing.T, proxied bool, urls ...string) {
	t.Helper()
	for _, url := range urls {
		var curl, environment []string
		if proxied {
			curl = []string{"-x", forward}
			environment = []string{"-e", "http_proxy=" + forward, "-e", "https_proxy=" + forward}
		}
		if out, code := m.curl(append(curl, url)...); code != 0 || !fromNeighbour(out) {
			t.Errorf("curl %s: exit code %d: %s", url, code, out)
		}
		words := append(append([]string{"run", "--rm"}, programs()...), environment...)
		words = append(words, "--entrypoint", "/usr/bin/python3", testimage.Name, "-c", python, url)
		if out, code := m.TryDocker(t, words...); code != 0 || !fromNeighbour(out) {
			t.Errorf("Python %s: exit code %d: %s", url, code, out)
		}
		if strings.HasPrefix(url, "http:") {
			if r := m.Toolbox(t, environment, "get", url); r.Outcome != testimage.OK || !fromNeighbour(r.Body) {
				t.Errorf("Go %s: %+v", url, r)
			}
		}
	}
}

// TestMachineBehindProxies: containers of a host that has no way out but the
// company's proxies.
func TestMachineBehindProxies(t *testing.T) {
	m := newMachine(t, stage.New(t), false)
	plain, secure := "http://"+webName+"/ip", "https://"+webName+"/"
	for _, c := range []struct {
		name, url string
		urls      []string
	}{
		{"squid", "http://" + squidOpen, []string{plain, secure}},
		{"squid with a login", "http://me:wo%3Art%40%2F1@" + squidBasic, []string{plain, secure}},
		{"squid with NTLM", `http://CORP%5Cme:wo%3Art%40%2F1@` + squidNTLM, []string{plain, secure}},
		{"TLS to squid", "https://" + squidTLS, []string{plain, secure}},
		{"tinyproxy", "http://" + tinyproxy, []string{plain}}, // it has no CONNECT to 443
		{"dante", "socks5h://" + dante, []string{plain, secure}},
	} {
		t.Run(c.name, func(t *testing.T) {
			m.choose(c.url, "*", nil)
			t.Run("forward proxy", func(t *testing.T) { m.visits(t, true, c.urls...) })
			t.Run("transparent", func(t *testing.T) { m.visits(t, false, c.urls...) })
			t.Run("push and pull", func(t *testing.T) { m.pushAndPull(t) })
		})
	}
	t.Run("names, not addresses", func(t *testing.T) { m.checkNames(t) })
	t.Run("the server speaks first", func(t *testing.T) { m.checkMail(t) })
	t.Run("refusals", func(t *testing.T) { m.checkRefusals(t) })
	t.Run("a proxy breaks off", func(t *testing.T) { m.checkBreaks(t) })
	t.Run("closed", func(t *testing.T) { m.checkClosed(t) })
	t.Run("a silent proxy", func(t *testing.T) { m.checkSilence(t) })
	t.Run("a dead proxy", func(t *testing.T) {
		m.choose("http://"+squidOpen, "*", nil)
		m.stopSquid()
		if out, code := m.curl("-x", forward, plain); !strings.Contains(out, squidOpen) || strings.Contains(out, "hello") {
			t.Errorf("forward proxy: exit code %d: %s", code, out)
		}
		if r := m.Toolbox(t, nil, "dial", "tcp", net.JoinHostPort(lab.WebV4, "80")); r.Outcome != testimage.Refused {
			t.Errorf("transparent: %+v", r)
		}
	})
}

// registry is one in the lab's internet, without TLS, which the engine finds out by
// CONNECT: HTTP proxies get its requests one by one, with uploads that they may want
// a login for.
const (
	registry      = webName + ":5000"
	engineOptions = `{"insecure-registries": ["` + registry + `"]}`
)

func (m machine) startRegistry() {
	m.t.Helper()
	m.StartRegistry(m.t, "5000", m.write("registry.yml", fmt.Sprintf("version: 0.1\nlog: {level: error, accesslog: {disabled: true}}\n"+
		"storage: {filesystem: {rootdirectory: %s}}\nhttp: {addr: \":5000\"}\n", filepath.Join(m.dir, "images")), 0o644))
}

// pushAndPull: the engine's own way to a registry.
func (m machine) pushAndPull(t *testing.T) {
	t.Helper()
	image := registry + "/test/image:" + strconv.FormatInt(time.Now().UnixNano(), 10)
	m.Docker(t, "create", "--name", "pushed", testimage.Name)
	m.Docker(t, "commit", "-c", "LABEL of="+image, "pushed", image) // one that the registry does not have
	m.Docker(t, "rm", "pushed")
	m.Docker(t, "push", "-q", image)
	m.Docker(t, "rmi", image)
	m.Docker(t, "pull", "-q", image)
	m.Docker(t, "rmi", image)
}

// checkNames connects where nobody is: only the name can lead to an answer.
func (m machine) checkNames(t *testing.T) {
	m.choose("http://"+squidOpen, "80,443", nil)
	for _, url := range []string{"http://" + webName + "/ip", "https://" + webName + "/"} {
		out, code := m.curl("--resolve", webName+":80:"+elsewhere, "--resolve", webName+":443:"+elsewhere, url)
		if code != 0 || !fromNeighbour(out) {
			t.Errorf("%s: exit code %d: %s", url, code, out)
		}
	}
	m.choose("http://"+tinyproxy, "80,443", nil) // no CONNECT to 443
	if out, code := m.curl("https://" + webName + "/"); code != 35 {
		t.Errorf("where the proxy has no CONNECT: exit code %d: %s", code, out)
	}
}

// checkMail: with * nobody knows who speaks first.
func (m machine) checkMail(t *testing.T) {
	m.choose("http://"+squidOpen, "*", nil)
	words := append(append([]string{"run", "--rm"}, programs()...), "--entrypoint", "/bin/busybox", testimage.Name,
		"sh", "-c", "sleep 1 | nc "+lab.WebV4+" "+mail)
	if out, code := m.TryDocker(t, words...); !strings.Contains(out, "220 ready") {
		t.Errorf("exit code %d: %s", code, out)
	}
}

// checkRefusals: the client learns who refused, and why.
func (m machine) checkRefusals(t *testing.T) {
	m.choose("http://"+squidBasic, "80", nil)
	for _, url := range []string{"http://" + webName + "/ip", "https://" + webName + "/"} {
		out, _ := m.curl("-x", forward, "-i", "-v", url)
		for _, want := range []string{"502 Bad Gateway"} {
			if !strings.Contains(out, want) {
				t.Errorf("login wanted, %s: %s", url, out)
			}
		}
	}
	out, _ := m.curl("-x", forward, "http://"+webName+"/ip")
	for _, want := range []string{squidBasic, "407", "containersProxy.http"} {
		if !strings.Contains(out, want) {
			t.Errorf("%q does not name %s", out, want)
		}
	}
	words := append(append([]string{"run", "--rm"}, programs()...), "-e", "https_proxy="+forward, "--entrypoint", "/usr/bin/python3", testimage.Name)
	if out, _ := m.TryDocker(t, append(words, "-c", python, "https://"+webName+"/")...); !strings.Contains(out, "502 Bad Gateway: portolan: proxy http://"+squidBasic) || !strings.Contains(out, "407") {
		t.Errorf("Python, login wanted: %s", out)
	}
	if out, _ := m.curl("-i", "http://"+webName+"/ip"); !strings.Contains(out, "502 Bad Gateway") || !strings.Contains(out, "containersProxy.http") {
		t.Errorf("transparent, login wanted: %s", out)
	}
	m.choose("http://"+squidOpen, "80", nil)
	if out, _ := m.curl("-x", forward, "-i", "http://www.forbidden.test/"); !strings.Contains(out, "403 Forbidden") {
		t.Errorf("forbidden: %s", out)
	}
	if out, _ := m.curl("-x", forward, "-v", "https://www.forbidden.test/"); !strings.Contains(out, "502") {
		t.Errorf("forbidden: %s", out)
	}
}

// checkBreaks: an end in the middle is no end that looks right.
func (m machine) checkBreaks(t *testing.T) {
	addr := net.JoinHostPort(lab.NeighbourV4, "3140")
	m.serve(m.lab.Neighbour, addr, func(conn net.Conn) {
		request, err := http.ReadRequest(bufio.NewReader(conn))
		if err != nil {
			return
		}
		if request.Method == http.MethodConnect {
			fmt.Fprint(conn, "HTTP/1.1 200 OK\r\n\r\n")
		}
		fmt.Fprint(conn, "HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nhalf")
	})
	m.choose("http://"+addr, "80", nil)
	const partial = 18 // curl(1)
	if out, code := m.curl("-x", forward, "http://"+webName+"/"); code != partial {
		t.Errorf("forward proxy: exit code %d: %s", code, out)
	}
	if out, code := m.curl("http://" + webName + "/"); code == 0 {
		t.Errorf("transparent: exit code %d: %s", code, out)
	}
}

// checkSilence: whoever waits for a proxy that says nothing is told in time.
func (m machine) checkSilence(t *testing.T) {
	addr := net.JoinHostPort(lab.NeighbourV4, "3141")
	m.serve(m.lab.Neighbour, addr, func(conn net.Conn) { _, _ = io.Copy(io.Discard, conn) })
	m.choose("http://"+addr, "443", nil)
	ask := func(name string, args ...string) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			began := time.Now()
			out, code := m.curl(args...)
			if took := time.Since(began); code == 28 || took > client+5*time.Second {
				t.Errorf("exit code %d after %s: %s", code, took, out)
			}
			if name != "transparent" && !strings.Contains(out, "504") {
				t.Errorf("exit code %d: %s", code, out)
			}
		})
	}
	ask("CONNECT", "-x", forward, "-v", "https://"+webName+"/")
	ask("GET", "-x", forward, "-i", "http://"+webName+"/")
	ask("transparent", "https://"+webName+"/")
}

// checkClosed: * without a proxy leaves what is excluded, and nothing else.
func (m machine) checkClosed(t *testing.T) {
	m.serve(m.lab.Neighbour, net.JoinHostPort(lab.NeighbourV4, "8090"), func(conn net.Conn) { _, _ = io.Copy(conn, conn) })
	m.lab.StartUDPEcho(t, m.lab.Neighbour, net.JoinHostPort(lab.NeighbourV4, "7"))
	near := net.JoinHostPort(lab.NeighbourV4, "8090")
	m.choose("", "*", nil)
	if r := m.Toolbox(t, nil, "dial", "tcp", near); r.Outcome != testimage.HostUnreachable {
		t.Errorf("TCP: %+v", r)
	}
	if r := m.Toolbox(t, nil, "udp-send", net.JoinHostPort(lab.NeighbourV4, "7"), "-timeout", "2s"); r.Outcome == testimage.OK {
		t.Errorf("UDP: %+v", r)
	}
	if r := m.Toolbox(t, nil, "ping", lab.NeighbourV4); r.Outcome == testimage.OK {
		t.Errorf("ping: %+v", r)
	}
	if out, _ := m.curl("-x", forward, "-i", "http://"+near+"/"); !strings.Contains(out, "403 Forbidden") {
		t.Errorf("forward proxy: %s", out)
	}
	m.choose("", "*", []string{lab.NeighbourV4})
	if r := m.Toolbox(t, nil, "dial", "tcp", near); r.Outcome != testimage.Connected {
		t.Errorf("excluded, TCP: %+v", r)
	}
	if r := m.Toolbox(t, nil, "udp-send", net.JoinHostPort(lab.NeighbourV4, "7")); r.Outcome != testimage.OK {
		t.Errorf("excluded, UDP: %+v", r)
	}
}
