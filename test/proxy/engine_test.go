package proxy_test

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/portolan-net/portolan/internal/lab"
	"github.com/portolan-net/portolan/internal/stage"
	"github.com/portolan-net/portolan/internal/testimage"
)

// proxied are settings by which engine and containers use squid's port.
func proxied(port int, more string) string {
	url := fmt.Sprintf(`"http://%s:%d"`, lab.NeighbourV4, port)
	one := `{"mode": "manual", "http": ` + url + `, "https": ` + url + `, "exclude": ["*.corp.test", "10.1.0.0/16"]}`
	return `{"proxy": ` + one + `, "containersProxy": ` + one + more +
		`, "linuxVM": {"dockerDaemonOptions": {"insecure-registries": ["` + plainRegistryName + `"]}}}`
}

func settle(t *testing.T, s *stage.Stage, text string) {
	t.Helper()
	path := filepath.Join(s.ConfDir, "default", "settings.json")
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// TestEngineBehindProxy: a host whose only way out is squid.
func TestEngineBehindProxy(t *testing.T) {
	s := stage.New(t)
	outside, inspector := newAuthority(t, "Outside CA"), newAuthority(t, "Company CA")
	startRegistry(t, s, outside)
	serveTLS(t, s, 8443, outside, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, "over TLS") }))
	startSquid(t, s, inspector, outside)
	_, trust := ownEtc(t, s)
	onlyBy(t, s)
	settle(t, s, proxied(3128, ""))
	s.Portolan(t, "up")
	s.LoadImage(t)
	s.Docker(t, append(shell("-d", "--name", "always"), "while :; do sleep 1; done")...)
	started := s.Docker(t, "inspect", "-f", "{{.State.StartedAt}} {{.State.Pid}}", "always")

	t.Run("variables", func(t *testing.T) { checkVariables(t, s, []string{".corp.test", "10.1.0.0/16", "always"}) })
	t.Run("the user's own win", func(t *testing.T) { checkOwnVariables(t, s) })
	t.Run("clients", func(t *testing.T) { checkClients(t, s) })
	t.Run("registry without TLS", func(t *testing.T) { checkPlainRegistry(t, s) })
	t.Run("build", func(t *testing.T) { checkBuild(t, s) })
	t.Run("classic build", func(t *testing.T) { checkClassicBuild(t, s) })
	t.Run("build without certificates", func(t *testing.T) { checkNoCertificatesInBuild(t, s) })
	t.Run("compose", func(t *testing.T) { checkCompose(t, s) })
	t.Run("trust follows", func(t *testing.T) {
		if out, code := s.TryDocker(t, "login", "-u", user, "-p", word, registryName); code == 0 || !strings.Contains(out, "certificate") {
			t.Errorf("login before the CA is trusted: exit code %d: %s", code, out)
		}
		trust(outside)
		checkRegistry(t, s)
	})
	t.Run("settings change", func(t *testing.T) { checkChange(t, s) })
	t.Run("TLS inspection", func(t *testing.T) {
		trust(inspector) // nobody but the inspector is seen any more
		settle(t, s, proxied(3129, `, "portolan": {"containerCertificates": true}`))
		checkRegistry(t, s)
		got := s.Toolbox(t, nil, "get", "https://web.internet.test:8443/")
		if got.Outcome != testimage.OK || got.Body != "over TLS" {
			t.Errorf("a container that has the host's certificates: %+v", got)
		}
		if got := s.Toolbox(t, []string{"-e", "SSL_CERT_FILE=/nowhere"}, "get", "https://web.internet.test:8443/"); got.Outcome == testimage.OK {
			t.Error("a container with certificates of its own choice trusts the inspector")
		}
		checkCertificatesInBuild(t, s)
	})
	t.Run("a dead proxy", func(t *testing.T) {
		settle(t, s, proxied(1, ""))
		stage.Eventually(t, 5*time.Second, "docker pull tells which proxy is dead, and who named it", func() bool {
			out, code := s.TryDocker(t, "pull", registryName+"/test/none")
			return code != 0 && strings.Contains(out, fmt.Sprintf("reach proxy http://%s:1: ", lab.NeighbourV4)) && strings.Contains(out, "setting proxy.https")
		})
	})
	if now := s.Docker(t, "inspect", "-f", "{{.State.StartedAt}} {{.State.Pid}}", "always"); now != started {
		t.Errorf("the container that ran all along was %s and is %s", started, now)
	}
}

// TestUserBehindProxy: the same for an ordinary user, whose registry's CA stands
// in /etc/docker/certs.d.
func TestUserBehindProxy(t *testing.T) {
	s := stage.NewUser(t)
	outside, inspector := newAuthority(t, "Outside CA"), newAuthority(t, "Company CA")
	startRegistry(t, s, outside)
	startSquid(t, s, inspector, outside)
	etc, trust := ownEtc(t, s)
	onlyBy(t, s)
	s.Portolan(t, "up")
	s.LoadImage(t)
	for _, group := range []string{"proxy", "containersProxy"} {
		for key, value := range map[string]string{"http": "3128", "https": "3128"} {
			s.Portolan(t, "settings", "set", group+"."+key, "http://"+lab.NeighbourV4+":"+value)
		}
		s.Portolan(t, "settings", "set", group+".mode", "manual")
	}
	checkVariables(t, s, nil)
	s.Portolan(t, "settings", "set", "portolan.containerCertificates", "true")
	if out := build(t, s, "trusting", "RUN [\"/bin/busybox\", \"sh\", \"-c\", \"head -n 1 $SSL_CERT_FILE\"]\n"); !strings.Contains(out, "BEGIN CERTIFICATE") {
		t.Errorf("a step of a build has no certificates:\n%s", out)
	}
	pid := dockerdPID(t, s)
	certs := filepath.Join(etc, "docker/certs.d", registryName)
	if err := os.MkdirAll(certs, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(certs, "ca.crt"), outside.pem, 0o644); err != nil {
		t.Fatal(err)
	}
	checkRegistry(t, s)
	if now := dockerdPID(t, s); now != pid {
		t.Errorf("for certs.d dockerd was started again: %s, %s", pid, now)
	}
	trust(inspector)
	stage.Eventually(t, 30*time.Second, "dockerd has started again for the CA store", func() bool { return dockerdPID(t, s) != pid })
}

// environment is what `docker inspect` shows of a new container, and `env` in it.
func environment(t *testing.T, s *stage.Stage, flags ...string) map[string]string {
	t.Helper()
	id := s.Docker(t, append(append([]string{"create"}, flags...), "--entrypoint", "/bin/busybox", testimage.Name, "env")...)
	defer s.Docker(t, "rm", "-f", id)
	shown := strings.Split(s.Docker(t, "inspect", "-f", `{{join .Config.Env "\n"}}`, id), "\n")
	inside := strings.Split(s.Docker(t, "start", "-a", id), "\n")
	found := map[string]string{}
	for _, v := range shown {
		if !slices.Contains(inside, v) {
			t.Errorf("inspect shows %s, the container has %s", v, inside)
		}
		name, value, _ := strings.Cut(v, "=")
		found[name] = value
	}
	return found
}

// bySquid reports whether a page that shows its client shows squid, which takes
// the faster of the two IP versions.
func bySquid(page string) bool {
	return strings.Contains(page, lab.NeighbourV4) || strings.Contains(page, lab.NeighbourV6)
}

const forward = "http://http.docker.internal:3128"

// checkVariables: what a new container gets, names of others included.
func checkVariables(t *testing.T, s *stage.Stage, more []string) {
	t.Helper()
	s.Docker(t, "network", "create", "--subnet", "10.77.0.0/24", "mine")
	t.Cleanup(func() { s.Docker(t, "network", "rm", "mine") })
	got := environment(t, s)
	for _, name := range []string{"HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"} {
		if got[name] != forward || got[strings.ToLower(name)] != forward {
			t.Errorf("%s=%s %s=%s", name, got[name], strings.ToLower(name), got[strings.ToLower(name)])
		}
	}
	direct := strings.Split(got["NO_PROXY"], ",")
	for _, want := range append(more, "localhost", "127.0.0.1", "::1", "169.254.0.0/16", "fe80::/10", "172.17.0.0/16", "10.77.0.0/24", ".docker.internal") {
		if !slices.Contains(direct, want) {
			t.Errorf("NO_PROXY=%s is without %s", got["NO_PROXY"], want)
		}
	}
	if got["NO_PROXY"] != got["no_proxy"] || strings.Contains(got["NO_PROXY"], "*") {
		t.Errorf("NO_PROXY=%s no_proxy=%s", got["NO_PROXY"], got["no_proxy"])
	}
	page := s.Toolbox(t, nil, "get", "http://web.internet.test/ip")
	if page.Outcome != testimage.OK || !bySquid(page.Body) {
		t.Errorf("a program that knows the variables: %+v, want to be seen as the proxy", page)
	}
	s.Serve(t, "server", nil, "web")
	addr := s.Docker(t, "inspect", "-f", "{{.NetworkSettings.Networks.bridge.IPAddress}}", "server")
	if page := s.Toolbox(t, nil, "get", "http://"+addr+"/"); page.Outcome != testimage.OK {
		t.Errorf("another container: %+v", page)
	}
}

func checkOwnVariables(t *testing.T, s *stage.Stage) {
	got := environment(t, s, "-e", "http_proxy=http://mine.test:1", "-e", "NO_PROXY=")
	if got["http_proxy"] != "http://mine.test:1" || got["NO_PROXY"] != "" || got["HTTPS_PROXY"] != forward {
		t.Errorf("with -e: %v", got)
	}
	for _, name := range []string{"HTTP_PROXY", "no_proxy"} {
		if value, ok := got[name]; ok {
			t.Errorf("with -e in the other case: %s=%s", name, value)
		}
	}
	config := filepath.Join(s.Lab.Dir, "docker", "config.json")
	if err := os.MkdirAll(filepath.Dir(config), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(config, []byte(`{"proxies": {"default": {"httpProxy": "http://config.test:1"}}}`), 0o600); err != nil {
		t.Fatal(err)
	}
	got = environment(t, s)
	if got["HTTP_PROXY"] != "http://config.test:1" || got["http_proxy"] != "http://config.test:1" || got["HTTPS_PROXY"] != forward {
		t.Errorf("with proxies in docker's config.json: %v", got)
	}
	if err := os.Remove(config); err != nil {
		t.Fatal(err)
	}
	build(t, s, "own", "ENV HTTP_PROXY=http://image.test:1\n")
	id := s.Docker(t, "create", "own")
	defer s.Docker(t, "rm", id)
	if env := s.Docker(t, "inspect", "-f", "{{.Config.Env}}", id); !strings.Contains(env, "HTTP_PROXY=http://image.test:1") || strings.Contains(env, "http_proxy=") || !strings.Contains(env, "HTTPS_PROXY="+forward) {
		t.Errorf("with the image's own: %s", env)
	}
}

func checkCompose(t *testing.T, s *stage.Stage) {
	dir := filepath.Join(s.Lab.Dir, "compose")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	text := `services:
  server:
    image: ` + testimage.Name + `
    command: web
  client:
    image: ` + testimage.Name + `
    command: get http://server/
    depends_on: [server]
  outside:
    image: ` + testimage.Name + `
    command: get http://web.internet.test/ip
`
	file := filepath.Join(dir, "compose.yaml")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	s.Docker(t, "compose", "-f", file, "up", "-d")
	t.Cleanup(func() { s.Docker(t, "compose", "-f", file, "down", "-t", "0") })
	logs := func(service string) string { return s.Docker(t, "compose", "-f", file, "logs", service) }
	stage.Eventually(t, 10*time.Second, "a service reaches the other", func() bool { return strings.Contains(logs("client"), `"outcome":"ok"`) })
	stage.Eventually(t, 10*time.Second, "a service reaches the internet", func() bool { return bySquid(logs("outside")) })
}

// checkRegistry logs in, pushes and pulls. The engine may have to start again
// first, because it is to trust somebody new.
func checkRegistry(t *testing.T, s *stage.Stage) {
	t.Helper()
	stage.Eventually(t, 30*time.Second, "login", func() bool {
		_, code := s.TryDocker(t, "login", "-u", user, "-p", word, registryName)
		return code == 0
	})
	image := registryName + "/test/image:" + fmt.Sprint(time.Now().UnixNano())
	s.Docker(t, "tag", testimage.Name, image)
	s.Docker(t, "push", image)
	s.Docker(t, "rmi", image)
	s.Docker(t, "pull", image)
	s.Docker(t, "rmi", image)
}

// checkChange: new containers get what is chosen now, old ones keep what they
// have, which still leads out, and nothing is started again.
func checkChange(t *testing.T, s *stage.Stage) {
	s.Docker(t, "run", "-d", "--name", "old", "--entrypoint", "/bin/busybox", testimage.Name, "sh", "-c", "while :; do sleep 1; done")
	t.Cleanup(func() { s.Docker(t, "rm", "-f", "old") })
	pid := dockerdPID(t, s)
	settle(t, s, strings.ReplaceAll(proxied(3128, ""), "*.corp.test", "*.new.test"))
	stage.Eventually(t, 5*time.Second, "a new container has the new exclusion", func() bool {
		return strings.Contains(environment(t, s)["NO_PROXY"], ".new.test")
	})
	settle(t, s, proxied(3128, `, "portolan": {"proxyVariables": false}`))
	stage.Eventually(t, 5*time.Second, "a new container has no variables", func() bool {
		_, has := environment(t, s)["HTTP_PROXY"]
		return !has
	})
	if got := s.Exec(t, "old", "get", "http://web.internet.test/ip"); got.Outcome != testimage.OK {
		t.Errorf("a container of before: %+v", got)
	}
	if now := dockerdPID(t, s); now != pid {
		t.Errorf("dockerd was process %s and is %s", pid, now)
	}
}

// dockerdPID is dockerd's process in the machine.
func dockerdPID(t *testing.T, s *stage.Stage) string {
	t.Helper()
	return strings.TrimSpace(s.Docker(t, "run", "--rm", "--pid", "host", "--entrypoint", "/bin/busybox", testimage.Name, "pidof", "dockerd"))
}
