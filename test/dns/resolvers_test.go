package dns

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/portolan-net/portolan/internal/lab"
	"github.com/portolan-net/portolan/internal/stage"
	"github.com/portolan-net/portolan/internal/testimage"
)

// Resolvers that people run on their computers, each of which sends a company's
// domain elsewhere.
func TestResolversOfTheHost(t *testing.T) {
	s := stage.Up(t)
	startCompany(t, s)
	startContainers(t, s)
	t.Run("unbound", func(t *testing.T) { checkUnbound(t, s) })
	t.Run("dnsmasq", func(t *testing.T) { checkDnsmasq(t, s) })
	t.Run("systemd-resolved", func(t *testing.T) { checkResolved(t, s) })
}

// checkWorld looks names up that every resolver of the host knows, and every kind
// of record that the lab has.
func checkWorld(t *testing.T, s *stage.Stage, server string) {
	t.Helper()
	want(t, s, "web.internet.test", lab.WebV4, lab.WebV6)
	want(t, s, "alias.internet.test", lab.WebV4, lab.WebV6)
	want(t, s, "v6only.internet.test", lab.WebV6)
	want(t, s, "nobody.internet.test")
	for _, container := range containers() {
		if got := s.Docker(t, "exec", container, "/usr/bin/dig", "+short", "alias.internet.test", "AAAA"); got != "web.internet.test.\n"+lab.WebV6 {
			t.Errorf("%s: dig says that alias.internet.test is %q", container, got)
		}
	}
	for _, question := range []string{
		"internet.test MX", "internet.test SOA", "txt.internet.test TXT", "_http._tcp.internet.test SRV",
		"https.internet.test HTTPS", "unknown.internet.test TYPE65280", "big.internet.test TXT -tcp",
	} {
		words := append([]string{"lookup"}, strings.Fields(question)...)
		direct := s.HostToolbox(t, append(words, "-server", server)...)
		if direct.Outcome != testimage.OK {
			t.Errorf("on the host, %s is %+v", question, direct)
		}
		for _, container := range containers() {
			if got := s.Exec(t, container, words...); got.Outcome != testimage.OK || strings.Join(got.Answers, ",") != strings.Join(direct.Answers, ",") {
				t.Errorf("%s: %s is %+v, on the host %v", container, question, got, direct.Answers)
			}
		}
	}
}

// start runs a resolver on the host until the test ends, and returns when it answers.
func start(t *testing.T, s *stage.Stage, server, name string, args ...string) *exec.Cmd {
	t.Helper()
	var out bytes.Buffer
	cmd := s.Lab.Host.Command(context.WithoutCancel(t.Context()), name, args...)
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill() // it may have ended
		_ = cmd.Wait()
		if t.Failed() {
			t.Log(out.String())
		}
	})
	stage.Eventually(t, started, name+" answers", func() bool {
		return s.HostToolbox(t, "lookup", "v4only.internet.test", "A", "-server", server, "-timeout", "1s").Outcome == testimage.OK
	})
	return cmd
}

const unboundConf = `server:
  interface: %[1]s
  do-daemonize: no
  username: ""
  chroot: ""
  directory: "%[2]s"
  pidfile: ""
  use-syslog: no
  module-config: "iterator"
  do-not-query-localhost: no
  local-zone: "test." transparent
forward-zone:
  name: "."
  forward-addr: %[3]s
%[4]s`

func checkUnbound(t *testing.T, s *stage.Stage) {
	startUnbound(t, s, "127.0.0.2", fmt.Sprintf("forward-zone:\n  name: \"corp.test\"\n  forward-addr: %s\n", companyDNS))
	setResolvConf(t, s, "nameserver 127.0.0.2\nsearch corp.test\n")
	checkWorld(t, s, "127.0.0.2:53")
	want(t, s, "wiki.corp.test", wikiV4, wikiV6)
	want(t, s, "wiki", wikiV4, wikiV6)
}

// startUnbound serves at an address of the host's loopback, with more in its
// configuration.
func startUnbound(t *testing.T, s *stage.Stage, addr, more string) {
	t.Helper()
	config := filepath.Join(s.Lab.Dir, "unbound.conf")
	if err := os.WriteFile(config, fmt.Appendf(nil, unboundConf, addr, s.Lab.Dir, lab.DNSV4, more), 0o644); err != nil {
		t.Fatal(err)
	}
	dir := unpacked(t, "unbound")
	start(t, s, addr+":53", "env", libraries(t, dir, "usr/lib/*-linux-gnu"), filepath.Join(dir, "usr/sbin/unbound"), "-d", "-c", config)
}

func checkDnsmasq(t *testing.T, s *stage.Stage) {
	start(t, s, "127.0.0.3:53", "dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null", "--no-hosts", "--no-resolv",
		"--user=root", "--pid-file", "--listen-address=127.0.0.3", "--bind-interfaces", "--server="+lab.DNSV4, "--server=/corp.test/"+companyDNS)
	setResolvConf(t, s, "nameserver 127.0.0.3\nsearch corp.test\n")
	checkWorld(t, s, "127.0.0.3:53")
	want(t, s, "wiki.corp.test", wikiV4, wikiV6)
	want(t, s, "wiki", wikiV4, wikiV6)
}

// resolvedScript runs systemd-resolved, with a bus of its own, in its own view of
// /run and of the users, one of which it becomes. It does nothing elsewhere than in
// a mount namespace of its own.
const resolvedScript = `set -e
[ "$(readlink /proc/self/ns/mnt)" != "$(readlink /proc/1/ns/mnt)" ]
mount -t tmpfs tmpfs /run
mkdir -p /run/dbus /run/systemd/resolve /run/systemd/resolved.conf.d
for file in passwd group; do
	grep -v ^systemd-resolve: /etc/$file >/run/$file
done
echo 'systemd-resolve:x:980:980::/:/usr/sbin/nologin' >>/run/passwd
echo 'systemd-resolve:x:980:' >>/run/group
for file in passwd group; do mount --bind /run/$file /etc/$file; done
chown 980:980 /run/systemd/resolve
cat >/run/systemd/resolved.conf.d/lab.conf <<EOF
[Resolve]
DNS=$1
FallbackDNS=
LLMNR=no
MulticastDNS=no
DNSSEC=no
EOF
cat >/run/bus.conf <<EOF
<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN" "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig><type>system</type><listen>unix:path=/run/dbus/system_bus_socket</listen><auth>EXTERNAL</auth>
<policy context="default"><allow user="*"/><allow own="*"/><allow send_destination="*"/><allow receive_sender="*"/></policy></busconfig>
EOF
dbus-daemon --config-file=/run/bus.conf --nofork --nopidfile &
echo $! >/run/bus.pid
while [ ! -S /run/dbus/system_bus_socket ]; do sleep 0.05; done
exec "$2"
`

// resolvedServer is where it listens.
const resolvedServer = "127.0.0.53:53"

// resolved is a running systemd-resolved.
type resolved struct {
	// within runs a command where it is, and returns what that prints.
	within func(words ...string) string
}

// startResolved starts it with its bus.
func startResolved(t *testing.T, s *stage.Stage) resolved {
	t.Helper()
	dir := unpacked(t, "systemd-resolved")
	library := libraries(t, dir, "usr/lib/*-linux-gnu/systemd")
	cmd := start(t, s, resolvedServer, "env", library, "unshare", "--mount",
		"sh", "-c", resolvedScript, "resolved", lab.DNSV4, one(t, dir, "lib/systemd/systemd-resolved", "usr/lib/systemd/systemd-resolved"))
	t.Cleanup(func() { // the test's context has ended
		enter := []string{fmt.Sprintf("--mount=/proc/%d/ns/mnt", cmd.Process.Pid), "sh", "-c", "kill $(cat /run/bus.pid)"}
		if out, err := s.Lab.Host.Command(context.WithoutCancel(t.Context()), "nsenter", enter...).CombinedOutput(); err != nil {
			t.Errorf("end dbus-daemon: %v: %s", err, out)
		}
	})
	return resolved{within: func(words ...string) string {
		t.Helper()
		path := "PATH=" + filepath.Join(dir, "usr/bin") + ":" + os.Getenv("PATH")
		enter := []string{library, path, "nsenter", fmt.Sprintf("--mount=/proc/%d/ns/mnt", cmd.Process.Pid)}
		return s.Lab.Host.Run(t, "env", append(enter, words...)...)
	}}
}

// checkResolved: names go where the links' domains say, which resolvectl changes
// as VPNs do. The host's file is what resolved writes, as behind the usual link.
func checkResolved(t *testing.T, s *stage.Stage) {
	r := startResolved(t, s)
	// follow gives the host the file, once its search list is that.
	follow := func(search string) {
		t.Helper()
		var text string
		stage.Eventually(t, followed, "systemd-resolved writes "+search, func() bool {
			text = r.within("cat", "/run/systemd/resolve/stub-resolv.conf")
			return strings.Contains(text, "\n"+search+"\n")
		})
		setResolvConf(t, s, text)
	}
	link := func(words ...string) { r.within(append([]string{"resolvectl"}, words...)...) }

	follow("search .")
	checkWorld(t, s, resolvedServer)
	want(t, s, "wiki.corp.test")
	for range 2 {
		// Split DNS without a word in the file: a routing domain.
		link("dns", "lan0", companyDNS)
		link("default-route", "lan0", "no")
		link("domain", "lan0", "~corp.test")
		want(t, s, "wiki.corp.test", wikiV4, wikiV6)
		want(t, s, "wiki")
		// A domain that is searched, too; not from the one to the other, which
		// systemd-resolved 252 does not write.
		link("revert", "lan0")
		link("dns", "lan0", companyDNS)
		link("domain", "lan0", "corp.test")
		follow("search corp.test")
		want(t, s, "wiki", wikiV4, wikiV6)
		want(t, s, "web.internet.test", lab.WebV4, lab.WebV6)
		link("revert", "lan0")
		follow("search .")
		want(t, s, "wiki")
		want(t, s, "wiki.corp.test")
	}
}

// unpacked is where scripts/packages has put a package's files.
func unpacked(t *testing.T, name string) string {
	t.Helper()
	path, err := filepath.Abs(filepath.Join("../../bin", name))
	if err == nil {
		_, err = os.Stat(path)
	}
	if err != nil {
		t.Fatalf("find %s: %v; type: scripts/packages test", name, err)
	}
	return path
}

// one is the first of these files that is there: Debian moves them.
func one(t *testing.T, dir string, names ...string) string {
	t.Helper()
	for _, name := range names {
		if _, err := os.Stat(filepath.Join(dir, name)); err == nil {
			return filepath.Join(dir, name)
		}
	}
	t.Fatalf("%s has none of %v", dir, names)
	return ""
}

// libraries tells a program where its own are.
func libraries(t *testing.T, dir, pattern string) (variable string) {
	t.Helper()
	found, err := filepath.Glob(filepath.Join(dir, pattern))
	if err != nil || len(found) == 0 {
		t.Fatalf("%s has no libraries at %s: %v", dir, pattern, err)
	}
	return "LD_LIBRARY_PATH=" + strings.Join(found, ":")
}
