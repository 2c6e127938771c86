package dns

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/portolan-net/portolan/internal/lab"
	"github.com/portolan-net/portolan/internal/stage"
	"github.com/portolan-net/portolan/internal/testimage"
)

// recipe is what docs/dns.md shows below the line that begins with a heading.
func recipe(t *testing.T, heading string) string {
	t.Helper()
	page, err := os.ReadFile("../../docs/dns.md")
	if err != nil {
		t.Fatal(err)
	}
	_, after, found := strings.Cut(string(page), "\n"+heading)
	_, after, _ = strings.Cut(after, "\n\n    ")
	block, _, _ := strings.Cut("    "+after, "\n\n")
	if !found || after == "" {
		t.Fatalf("docs/dns.md shows nothing below %q", heading)
	}
	var lines []string
	for line := range strings.Lines(block) {
		lines = append(lines, strings.TrimPrefix(line, "    "))
	}
	return strings.Join(lines, "") + "\n"
}

// recipeFile writes it to a file of that name, alone in its directory.
func recipeFile(t *testing.T, heading, name string) (dir, path string) {
	t.Helper()
	dir = t.TempDir()
	path = filepath.Join(dir, name)
	if err := os.WriteFile(path, []byte(recipe(t, heading)), 0o644); err != nil {
		t.Fatal(err)
	}
	return dir, path
}

// wantPlugged checks that a resolver of the host knows containers, and the world.
func wantPlugged(t *testing.T, s *stage.Stage, server string) {
	t.Helper()
	own := strings.Fields(s.Docker(t, "inspect", "-f", "{{range .NetworkSettings.Networks}}{{.IPAddress}} {{.GlobalIPv6Address}}{{end}}", "networked"))
	slices.Sort(own)
	ask := func(name string) string {
		var all []string
		for _, qtype := range []string{"A", "AAAA"} {
			for _, answer := range s.HostToolbox(t, "lookup", name, qtype, "-server", server).Answers {
				all = append(all, strings.TrimPrefix(answer, qtype+" "))
			}
		}
		slices.Sort(all)
		return strings.Join(all, " ")
	}
	var got string
	stage.Eventually(t, followed, "networked.portolan.internal is known at "+server, func() bool {
		got = ask("networked.portolan.internal")
		return got != ""
	})
	if want := strings.Join(own, " "); got != want || len(own) != 2 {
		t.Errorf("%s says that networked.portolan.internal is %s, want %s", server, got, want)
	}
	if got := ask("web.internet.test"); got != lab.WebV4+" "+lab.WebV6 {
		t.Errorf("%s says that web.internet.test is %s", server, got)
	}
	if got := s.HostToolbox(t, "lookup", "nobody.portolan.internal", "A", "-server", server); got.Outcome != testimage.NoName {
		t.Errorf("%s says about nobody.portolan.internal %+v", server, got)
	}
}

// What docs/dns.md says about the host's resolvers is typed and written as it
// stands there.
func TestRecipes(t *testing.T) {
	s := stage.Up(t)
	s.Docker(t, "network", "create", "mine")
	s.Docker(t, "run", "-d", "--name", "networked", "--network", "mine", testimage.Name, "sleep", "1h")
	t.Run("dnsmasq", func(t *testing.T) {
		dir, _ := recipeFile(t, "**dnsmasq**", "portolan.conf")
		// The lab's addresses are private to dnsmasq, too.
		start(t, s, "127.0.0.4:53", "dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null", "--no-hosts", "--no-resolv", "--user=root", "--pid-file",
			"--listen-address=127.0.0.4", "--bind-interfaces", "--server="+lab.DNSV4, "--stop-dns-rebind", "--rebind-domain-ok=/internet.test/", "--conf-dir="+dir)
		wantPlugged(t, s, "127.0.0.4:53")
	})
	t.Run("NetworkManager's dnsmasq", func(t *testing.T) {
		dir, _ := recipeFile(t, "**dnsmasq**", "portolan.conf")
		// As NetworkManager starts it, but for the bus by which it would tell the server.
		start(t, s, "127.0.0.5:53", "dnsmasq", "--no-resolv", "--keep-in-foreground", "--no-hosts", "--bind-interfaces", "--pid-file", "--listen-address=127.0.0.5",
			"--cache-size=400", "--clear-on-reload", "--conf-file=/dev/null", "--proxy-dnssec", "--user=root", "--server="+lab.DNSV4, "--conf-dir="+dir)
		wantPlugged(t, s, "127.0.0.5:53")
	})
	t.Run("unbound", func(t *testing.T) {
		_, path := recipeFile(t, "**unbound**", "portolan.conf")
		startUnbound(t, s, "127.0.0.6", "include: "+path+"\n")
		wantPlugged(t, s, "127.0.0.6:53")
	})
	t.Run("systemd-resolved", func(t *testing.T) {
		r := startResolved(t, s)
		commands := recipe(t, "Before 258")
		// A kernel without dummies has another interface that needs no cable.
		if _, err := s.Lab.Host.Command(t.Context(), "ip", "link", "add", "try0", "type", "dummy").CombinedOutput(); err != nil {
			commands = strings.Replace(commands, "type dummy", "type veth peer name names1 && ip link set names1 up", 1)
		}
		r.within("sh", "-c", "set -e\n"+commands)
		wantPlugged(t, s, resolvedServer)
		// The host's own names are asked for as before.
		if got := s.HostToolbox(t, "lookup", "nobody.internet.test", "A", "-server", resolvedServer); got.Outcome != testimage.NoName {
			t.Errorf("nobody.internet.test: %+v", got)
		}
	})
}
