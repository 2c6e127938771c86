package dns

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/portolan-net/portolan/internal/lab"
	"github.com/portolan-net/portolan/internal/stage"
)

// resolverV4 is where containers of the default bridge ask.
const resolverV4 = "192.168.65.7"

// What a host may do while containers run, and what may come over its networks.
func TestHostAtWork(t *testing.T) {
	s, etc := upWithOwnEtc(t)
	startCompany(t, s)
	startContainers(t, s)
	t.Run("files replaced", func(t *testing.T) { checkReplaced(t, s, etc) })
	setOwn := func(t *testing.T, text string) {
		t.Helper()
		replace(t, filepath.Join(etc, "resolv.conf"), text)
	}
	t.Run("a resolver on an address of the host", func(t *testing.T) { checkOwnAddress(t, s, setOwn) })
	t.Run("another network", func(t *testing.T) { checkNetworkChange(t, s, setOwn) })
	t.Run("order of resolvers", func(t *testing.T) { checkOrder(t, s, setOwn) })
	t.Run("messages", func(t *testing.T) { checkMessages(t, s, setOwn) })
	t.Run("hints", func(t *testing.T) { checkHints(t, s, setOwn) })
	t.Run("flood", func(t *testing.T) { checkFlood(t, s, setOwn) })
}

// upWithOwnEtc is stage.Up on a host whose /etc is a directory of the lab, so that
// files in it can be renamed. It is returned as the test sees it.
func upWithOwnEtc(t *testing.T) (s *stage.Stage, etc string) {
	t.Helper()
	s = stage.New(t)
	etc = filepath.Join(s.Lab.Dir, "etc")
	s.Lab.Host.Run(t, "cp", "-a", "/etc", etc)
	s.Lab.Host.Run(t, "mount", "--bind", etc, "/etc")
	s.Portolan(t, "up")
	s.LoadImage(t)
	return s, etc
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// replace renames a new file over path.
func replace(t *testing.T, path, text string) {
	t.Helper()
	must(t, os.WriteFile(path+".new", []byte(text), 0o644))
	must(t, os.Rename(path+".new", path))
}

// relink makes path a link to target in one step.
func relink(t *testing.T, path, target string) {
	t.Helper()
	must(t, os.Symlink(target, path+".new"))
	must(t, os.Rename(path+".new", path))
}

// checkReplaced does what VPNs' scripts do to the host's files: new ones take their
// place, and links to where nobody would look, at nothing that was there when the
// daemon confined itself.
func checkReplaced(t *testing.T, s *stage.Stage, etc string) {
	if log := s.Portolan(t, "logs", "--source", "daemon"); !strings.Contains(log, "kept.landlock=") || strings.Contains(log, "kept.landlock=0") {
		t.Fatal("the daemon may read every file: nothing would be shown")
	}
	conf := filepath.Join(etc, "resolv.conf")
	vpn, other := filepath.Join(s.Lab.Dir, "vpn"), filepath.Join(s.Lab.Dir, "another", "vpn")
	must(t, os.MkdirAll(vpn, 0o755))
	must(t, os.MkdirAll(other, 0o755))
	for i, step := range []struct {
		name   string
		change func(text string)
	}{
		{"renamed over", func(text string) { replace(t, conf, text) }},
		{"a link to elsewhere", func(text string) {
			replace(t, filepath.Join(vpn, "names"), text)
			relink(t, conf, filepath.Join(vpn, "names"))
		}},
		{"its target is written", func(text string) { must(t, os.WriteFile(filepath.Join(vpn, "names"), []byte(text), 0o644)) }},
		{"its target is renamed over", func(text string) { replace(t, filepath.Join(vpn, "names"), text) }},
		{"the link leads to another place", func(text string) {
			replace(t, filepath.Join(other, "names"), text)
			relink(t, conf, filepath.Join(other, "names"))
		}},
		{"a file again", func(text string) { replace(t, conf, text) }},
	} {
		server, addr := fmt.Sprintf("127.0.0.%d", 100+i), fmt.Sprintf("203.0.113.%d", 100+i)
		s.Lab.StartDNS(t, s.Lab.Host, server+":53", "wiki.corp.test. 600 IN A "+addr)
		t.Run(step.name, func(t *testing.T) {
			took := measured(t, s, addr, func() { step.change("nameserver " + server + "\n") })
			t.Logf("followed after %s", took)
			want(t, s, "wiki.corp.test", addr)
			if got := s.Toolbox(t, nil, "lookup", "wiki.corp.test", "A"); strings.Join(got.Answers, " ") != "A "+addr || got.Remote != resolverV4+":53" {
				t.Errorf("a new container says %+v, want %s", got, addr)
			}
			engine := strconv.Itoa(s.MachineProcess(t, "dockerd"))
			stage.Eventually(t, followed, "the engine asks where containers do", func() bool {
				return strings.Contains(s.Lab.Host.Run(t, "nsenter", "--mount", "--target", engine, "cat", "/etc/resolv.conf"), "nameserver "+resolverV4+"\n")
			})
		})
	}
	replace(t, filepath.Join(vpn, "hosts"), "203.0.113.77 printer.corp.test\n")
	relink(t, filepath.Join(etc, "hosts"), filepath.Join(vpn, "hosts"))
	want(t, s, "printer.corp.test", "203.0.113.77")
}

// measured is how long wiki.corp.test took to become addr in a container.
func measured(t *testing.T, s *stage.Stage, addr string, change func()) time.Duration {
	t.Helper()
	script := fmt.Sprintf("until /usr/bin/dig +short +time=1 +tries=1 @%s wiki.corp.test | /usr/bin/grep -qx %s; do :; done; /usr/bin/date +%%s%%N", resolverV4, addr)
	type result struct {
		out  string
		code int
	}
	ended := make(chan result, 1)
	go func() {
		out, code := s.TryDocker(t, "exec", "bridged", "/usr/bin/timeout", "20", "/usr/bin/sh", "-c", script)
		ended <- result{out, code}
	}()
	time.Sleep(500 * time.Millisecond) // it asks by now
	began := time.Now()
	change()
	r := <-ended
	at, err := strconv.ParseInt(strings.TrimSpace(r.out), 10, 64)
	if r.code != 0 || err != nil {
		t.Fatalf("wait for %s: exit code %d: %s", addr, r.code, r.out)
	}
	took := time.Unix(0, at).Sub(began)
	if took > followed {
		t.Errorf("%s came after %s", addr, took)
	}
	return took
}

// checkOwnAddress: a resolver on the host's address in the LAN changes its mind
// without a word in the file.
func checkOwnAddress(t *testing.T, s *stage.Stage, set func(*testing.T, string)) {
	set(t, "nameserver "+lab.HostV4+"\n")
	for _, addr := range []string{"203.0.113.61", "203.0.113.62"} {
		t.Run(addr, func(t *testing.T) {
			s.Lab.StartDNS(t, s.Lab.Host, lab.HostV4+":53", "wiki.corp.test. 600 IN A "+addr, "only"+addr+".corp.test. 600 IN A "+addr)
			want(t, s, "only"+addr+".corp.test", addr)
			if got := s.Exec(t, "bridged", "lookup", "wiki.corp.test", "A"); strings.Join(got.Answers, " ") != "A "+addr {
				t.Errorf("wiki.corp.test is %+v, want %s", got, addr)
			}
		})
	}
}

// checkNetworkChange: after another route nothing that was said before is believed.
func checkNetworkChange(t *testing.T, s *stage.Stage, set func(*testing.T, string)) {
	set(t, "nameserver "+lab.DNSV4+"\n")
	source := func(want string) {
		t.Helper()
		stage.Eventually(t, followed, "web.internet.test is from the "+want, func() bool {
			return strings.Contains(s.Portolan(t, "dns", "query", "web.internet.test", "--json"), `"source": "`+want+`"`)
		})
	}
	source("cache")
	s.Lab.Host.Run(t, "ip", "route", "add", "10.123.0.0/16", "via", lab.GatewayV4)
	source("resolver")
	s.Lab.Host.Run(t, "ip", "route", "del", "10.123.0.0/16")
	source("cache")
}

// checkOrder: the first resolver, a VPN's on another continent, says what counts;
// a second one that is quicker with another answer is not even asked.
func checkOrder(t *testing.T, s *stage.Stage, set func(*testing.T, string)) {
	const first, second = "127.0.0.95", "127.0.0.96"
	s.Lab.StartDNS(t, s.Lab.Host, first+":54", "mail.corp.test. 600 IN A 203.0.113.71")
	slow(t, s, first+":53", first+":54", 600*time.Millisecond)
	public := s.Lab.StartDNS(t, s.Lab.Host, second+":53", "mail.corp.test. 600 IN A 203.0.113.72")
	set(t, "nameserver "+first+"\nnameserver "+second+"\n")
	want(t, s, "mail.corp.test", "203.0.113.71")
	for _, q := range public.Queries() {
		if q.Name == "mail.corp.test." {
			t.Errorf("the second resolver heard of %s", q)
		}
	}
}
