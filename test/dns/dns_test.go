// Package dns shows that containers know the names that this host's own resolver
// knows, be that unbound, dnsmasq or systemd-resolved, and that they do so for
// programs of glibc and of Go.
package dns

import (
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/portolan-net/portolan/internal/lab"
	"github.com/portolan-net/portolan/internal/stage"
	"github.com/portolan-net/portolan/internal/testimage"
)

const (
	// followed is five times the 2 s within which names follow the host.
	followed = 10 * time.Second
	// started bounds how long a resolver may take until it answers.
	started = 20 * time.Second
)

// The company's resolver, which knows its domain only, and what is in it.
const (
	companyDNS = "127.0.0.99"
	wikiV4     = "203.0.113.31"
	wikiV6     = "2001:db8:99::31"
	databaseV4 = "203.0.113.32"
)

func startCompany(t *testing.T, s *stage.Stage) *lab.DNS {
	t.Helper()
	return s.Lab.StartDNS(t, s.Lab.Host, companyDNS+":53",
		"wiki.corp.test. 600 IN A "+wikiV4, "wiki.corp.test. 600 IN AAAA "+wikiV6, "db.prod.corp.test. 600 IN A "+databaseV4)
}

// containers are those that run before anything changes: one on the default
// bridge, one on a user-defined network.
func containers() []string { return []string{"bridged", "networked"} }

// startContainers starts them, with the host's glibc beside the toolbox.
func startContainers(t *testing.T, s *stage.Stage) {
	t.Helper()
	glibc := []string{"-v", "/usr:/usr:ro", "-v", "/usr/lib:/lib:ro"}
	if _, err := os.Stat("/usr/lib64"); err == nil { // where amd64 has its loader
		glibc = append(glibc, "-v", "/usr/lib64:/lib64:ro")
	}
	s.Docker(t, "network", "create", "mine")
	t.Cleanup(func() { s.Docker(t, "network", "rm", "mine") })
	for name, flags := range map[string][]string{"bridged": nil, "networked": {"--network", "mine"}} {
		s.Docker(t, slices.Concat([]string{"run", "-d", "--name", name}, flags, glibc, []string{testimage.Name, "sleep", "1h"})...)
		t.Cleanup(func() { s.Docker(t, "rm", "-f", name) })
	}
}

// glibc is what getaddrinfo of glibc says about a name, sorted; "" for no such name.
func glibc(t *testing.T, s *stage.Stage, container, name string) string {
	t.Helper()
	out, code := s.TryDocker(t, "exec", container, "/usr/bin/getent", "ahosts", name)
	if code != 0 && code != 2 { // getent(1)
		t.Fatalf("%s: getent ahosts %s: exit code %d: %s", container, name, code, out)
	}
	var addrs []string
	for line := range strings.Lines(out) {
		if fields := strings.Fields(line); len(fields) > 0 {
			if _, err := netip.ParseAddr(fields[0]); err == nil {
				addrs = append(addrs, fields[0])
			}
		}
	}
	slices.Sort(addrs)
	return strings.Join(slices.Compact(addrs), " ")
}

// static is the same of a static Go program.
func static(t *testing.T, s *stage.Stage, container, name string) string {
	t.Helper()
	got := s.Exec(t, container, "lookup", name)
	slices.Sort(got.Answers)
	return strings.Join(got.Answers, " ")
}

// want is what every program in every container is to say, soon.
func want(t *testing.T, s *stage.Stage, name string, addrs ...string) {
	t.Helper()
	slices.Sort(addrs)
	text := strings.Join(addrs, " ")
	for _, container := range containers() {
		for program, ask := range map[string]func(*testing.T, *stage.Stage, string, string) string{"glibc": glibc, "Go": static} {
			got, end := "", time.Now().Add(followed)
			for got = ask(t, s, container, name); got != text && time.Now().Before(end); got = ask(t, s, container, name) {
				time.Sleep(50 * time.Millisecond)
			}
			if got != text {
				t.Errorf("%s, %s: %s is %q, want %q", container, program, name, got, text)
			}
		}
	}
}

func setResolvConf(t *testing.T, s *stage.Stage, text string) {
	t.Helper()
	if err := s.Lab.SetResolvConf(text); err != nil {
		t.Fatal(err)
	}
}

// Short names are completed as on the host, in containers that run.
func TestSearch(t *testing.T) {
	s := stage.Up(t)
	startCompany(t, s)
	startContainers(t, s)
	const server = "nameserver " + companyDNS + "\n"
	setResolvConf(t, s, server)
	want(t, s, "wiki.corp.test", wikiV4, wikiV6)
	want(t, s, "wiki")

	setResolvConf(t, s, server+"search internet.test corp.test\n")
	want(t, s, "wiki", wikiV4, wikiV6)
	want(t, s, "web", lab.WebV4, lab.WebV6)
	want(t, s, "v4only", lab.WebV4)
	want(t, s, "nobody")
	// Another container's name is its own, as long as there is one.
	s.Docker(t, "run", "-d", "--name", "wiki", "--network", "mine", testimage.Name, "sleep", "1h")
	if got, own := static(t, s, "networked", "wiki"), s.Docker(t, "inspect", "-f", "{{.NetworkSettings.Networks.mine.IPAddress}}", "wiki"); !strings.Contains(got, strings.TrimSpace(own)) || strings.Contains(got, wikiV4) {
		t.Errorf("beside a container wiki at %s it is %s", own, got)
	}
	s.Docker(t, "rm", "-f", "wiki")

	want(t, s, "db.prod") // one dot is enough
	setResolvConf(t, s, server+"search corp.test\noptions ndots:2\n")
	want(t, s, "db.prod", databaseV4)
	want(t, s, "web.internet.test", lab.WebV4, lab.WebV6)
	want(t, s, "web")
	if out := s.Portolan(t, "dns", "query", "wiki"); !strings.Contains(out, "completed to wiki.corp.test., with a search domain of /etc/resolv.conf") || !strings.Contains(out, wikiV4) {
		t.Errorf("dns query wiki says\n%s", out)
	}
	setResolvConf(t, s, server)
	want(t, s, "wiki")
	t.Run("filters", func(t *testing.T) { checkFilters(t, s) })
}
