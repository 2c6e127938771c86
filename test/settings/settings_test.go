// Package settings_test plays what users and administrators choose on a whole
// machine in the lab.
package settings_test

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"

	"github.com/portolan-net/portolan/internal/lab"
	"github.com/portolan-net/portolan/internal/stage"
	"github.com/portolan-net/portolan/internal/testimage"
)

const (
	// live bounds what counts at once: five times the promised second.
	live = 5 * time.Second
	// atOnce bounds a connect that nobody can carry: it waits for nothing.
	atOnce = time.Second
	// resolver is reached over IPv4 in every mode: docker0 always has it.
	resolver = "192.168.65.7"
)

// family is one IP version as the lab has it.
type family struct {
	name, web, host, record string
	prefix, gateway, dns    string // of the host
}

func families() []family {
	return []family{
		{"IPv4", lab.WebV4, lab.HostV4, "A", lab.HostV4 + "/24", lab.GatewayV4, lab.DNSV4},
		{"IPv6", lab.WebV6, lab.HostV6, "AAAA", lab.HostV6 + "/64", lab.GatewayV6, lab.DNSV6},
	}
}

func hostPort(addr string, port uint16) string {
	return netip.AddrPortFrom(netip.MustParseAddr(addr), port).String()
}

func TestSettings(t *testing.T) {
	s := stage.New(t)
	trustedDir(t, s)
	s.Portolan(t, "up")
	s.LoadImage(t)
	s.Lab.StartWeb(t, s.Lab.Host, "127.0.0.1:8081")
	s.Serve(t, "always", []string{"-p", "8300:80"}, "web")
	started := s.Docker(t, "inspect", "-f", "{{.State.StartedAt}} {{.State.Pid}}", "always")

	t.Run("a mistake before the first setting", func(t *testing.T) { checkFirst(t, s) })
	t.Run("DNS filter", func(t *testing.T) { checkInhibition(t, s) })
	t.Run("the host's loopback", func(t *testing.T) { checkLoopback(t, s) })
	t.Run("port binding", func(t *testing.T) { checkPortBinding(t, s) })
	t.Run("a mode waits for its restart", func(t *testing.T) { checkPending(t, s) })
	t.Run("ipv4only", func(t *testing.T) { checkMode(t, s, "ipv4only", true, false) })
	t.Run("ipv6only", func(t *testing.T) { checkMode(t, s, "ipv6only", false, true) })
	t.Run("dual-stack", func(t *testing.T) { checkMode(t, s, "dual-stack", true, true) })
	t.Run("engine options", func(t *testing.T) { checkEngineOptions(t, s) })
	t.Run("another subnet", func(t *testing.T) { checkMove(t, s) })
	t.Run("a network of the host's overlaps", func(t *testing.T) { checkClash(t, s) })
	t.Run("a daemon dies while the machine moves", func(t *testing.T) { checkDeath(t, s) })
	t.Run("lock", func(t *testing.T) { checkLock(t, s) })
	t.Run("bad file", func(t *testing.T) { checkBadFile(t, s) })
	if now := s.Docker(t, "inspect", "-f", "{{.State.StartedAt}} {{.State.Pid}}", "always"); now != started {
		t.Errorf("the container that ran all along was %s and is %s", started, now)
	}
	v4, v6 := families()[0], families()[1]
	t.Run("a host without IPv4", func(t *testing.T) { checkHostWithout(t, s, v4, v6) })
	t.Run("a host without IPv6", func(t *testing.T) { checkHostWithout(t, s, v6, v4) })
	t.Run("swarm", func(t *testing.T) { checkSwarm(t, s) })
	t.Run("bad engine options at the start", func(t *testing.T) { checkBadOptions(t, s) })
	t.Run("docker0", func(t *testing.T) { checkDocker0(t, s) })
}

// eventually is stage.Eventually with the promise for live changes.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	stage.Eventually(t, live, what, ok)
}

// checkMode chooses a mode and tests traffic out, published ports and DNS in a
// container of a new network, and the ways in which a network has its own.
func checkMode(t *testing.T, s *stage.Stage, mode string, v4, v6 bool) {
	t.Helper()
	s.Portolan(t, "settings", "set", "--yes", "defaultNetworkingMode", mode)
	if got := s.Status(t); string(got.Mode) != mode {
		t.Errorf("status says %s", got.Mode)
	}
	s.Docker(t, "network", "create", "new")
	t.Cleanup(func() { s.Docker(t, "network", "rm", "new") })
	checkOverrides(t, s, v4, v6)
	if got, want := networkFamilies(t, s, "new"), fmt.Sprint(v4, v6); got != want {
		t.Errorf("a new network has IPv4, IPv6: %s, want %s", got, want)
	}
	s.Serve(t, "server", []string{"--network", "new", "-p", "8301:80"}, "web")
	for _, f := range families() {
		has := v4 && f.name == "IPv4" || v6 && f.name == "IPv6"
		for _, container := range []string{"server", "always"} {
			checkOut(t, s, container, f, has)
		}
		checkAnswer(t, s, f, has)
		if has {
			body, err := stage.Fetch(t, s.Lab.Neighbour, hostPort(f.host, 8301), "/")
			if err != nil || !strings.Contains(body, `"client"`) {
				t.Errorf("%s: the published port gives %q, %v", f.name, body, err)
			}
		}
	}
	if got := s.Exec(t, "server", "get", "http://host.docker.internal:8081/"); got.Outcome != testimage.OK {
		t.Errorf("host.docker.internal: %+v", got)
	}
	for flags, want := range map[string]string{"--ipv4=false --ipv6": "false true", "--ipv4 --ipv6=false": "true false", "--ipv4 --ipv6": "true true"} {
		s.Docker(t, append(append([]string{"network", "create"}, strings.Fields(flags)...), "own")...)
		if got := networkFamilies(t, s, "own"); got != want {
			t.Errorf("network create %s has IPv4, IPv6: %s, want %s", flags, got, want)
		}
		s.Docker(t, "network", "rm", "own")
	}
}

func networkFamilies(t *testing.T, s *stage.Stage, name string) string {
	t.Helper()
	return s.Docker(t, "network", "inspect", "-f", "{{.EnableIPv4}} {{.EnableIPv6}}", name)
}

// checkOut: a family that the mode has reaches the internet; the other one fails
// at once, as on a host without it.
func checkOut(t *testing.T, s *stage.Stage, container string, f family, has bool) {
	t.Helper()
	for _, args := range [][]string{
		{"get", "http://" + hostPort(f.web, 80) + "/ip"}, {"udp-send", hostPort(f.web, 7)}, {"ping", f.web},
	} {
		got := s.Exec(t, container, args...)
		if has && got.Outcome != testimage.OK {
			t.Errorf("%s: %s: %+v", container, args, got)
		}
		if !has && (got.Outcome != testimage.NetUnreachable || got.Duration() > atOnce) {
			t.Errorf("%s: %s ends with %s after %s, want %s at once", container, args, got.Outcome, got.Duration(), testimage.NetUnreachable)
		}
	}
}

// checkAnswer: the resolver has records of the families that count.
func checkAnswer(t *testing.T, s *stage.Stage, f family, has bool) {
	t.Helper()
	want := testimage.OK
	if !has {
		want = testimage.NoData
	}
	for _, name := range []string{"web.internet.test", "host.docker.internal"} {
		if got := lookup(t, s, name, f.record); got.Outcome != want {
			t.Errorf("%s of %s: %s, want %s", f.record, name, got.Outcome, want)
		}
	}
}

func lookup(t *testing.T, s *stage.Stage, name, record string) testimage.Result {
	t.Helper()
	return s.Exec(t, "always", "lookup", name, record, "-server", resolver)
}

func checkInhibition(t *testing.T, s *stage.Stage) {
	const name = "web.internet.test"
	for value, want := range map[string][2]testimage.Outcome{
		"ipv4": {testimage.NoData, testimage.OK}, "ipv6": {testimage.OK, testimage.NoData}, "none": {testimage.OK, testimage.OK},
	} {
		s.Portolan(t, "settings", "set", "dnsInhibition", value)
		for i, f := range families() {
			eventually(t, fmt.Sprintf("%s: %s is %s", value, f.record, want[i]), func() bool { return lookup(t, s, name, f.record).Outcome == want[i] })
		}
	}
	s.Portolan(t, "settings", "set", "dnsInhibition", "ipv6")
	s.Portolan(t, "settings", "set", "--later", "defaultNetworkingMode", "ipv4only")
	if got := strings.TrimSpace(s.Portolan(t, "settings", "get", "dnsInhibition")); got != "auto" {
		t.Errorf("after a change of the mode the filter is %s, want auto", got)
	}
	if out, code := s.TryPortolan(t, "settings", "set", "dnsInhibition", "ipv6"); code != 1 || !strings.Contains(out, "only in dual-stack") {
		t.Errorf("a filter outside dual-stack: exit code %d: %s", code, out)
	}
	s.Portolan(t, "settings", "set", "--later", "defaultNetworkingMode", "dual-stack")
}

func checkLoopback(t *testing.T, s *stage.Stage) {
	get := func() testimage.Outcome {
		return s.Exec(t, "always", "get", "http://host.docker.internal:8081/").Outcome
	}
	if got := get(); got != testimage.OK {
		t.Fatalf("host.docker.internal by default: %s", got)
	}
	// By hand, as an editor would: the daemon notices by itself.
	write(t, settingsFile(s), `{"portolan": {"hostLoopback": false}}`)
	eventually(t, "the host's loopback is out of reach", func() bool { got := get(); return got != testimage.OK && got != testimage.Timeout })
	if got := s.Exec(t, "always", "get", "http://"+hostPort(lab.WebV4, 80)+"/ip"); got.Outcome != testimage.OK {
		t.Errorf("all else: %+v", got)
	}
	s.Portolan(t, "settings", "unset", "portolan.hostLoopback")
	eventually(t, "the host's loopback is back", func() bool { return get() == testimage.OK })
}

// checkFirst: what is refused before there is a settings file leaves the
// directory that the confined daemon may read.
func checkFirst(t *testing.T, s *stage.Stage) {
	if out, code := s.TryPortolan(t, "settings", "set", "portBindingBehavior", "nowhere"); code != 1 {
		t.Fatalf("exit code %d: %s", code, out)
	}
	s.Portolan(t, "settings", "set", "portBindingBehavior", "local-only-port-binding")
	reached := func() bool {
		_, err := stage.Fetch(t, s.Lab.Neighbour, hostPort(lab.HostV4, 8300), "/")
		return err == nil
	}
	eventually(t, "the first setting counts", func() bool { return !reached() })
	if problems := s.Status(t).Problems; len(problems) > 0 {
		t.Errorf("status: %q", problems)
	}
	s.Portolan(t, "settings", "unset", "portBindingBehavior")
	eventually(t, "it counts no more", reached)
}

func settingsFile(s *stage.Stage) string { return filepath.Join(s.ConfDir, "default", "settings.json") }

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

func checkPortBinding(t *testing.T, s *stage.Stage) {
	s.Serve(t, "before", []string{"-p", "8304:80", "-p", "8304:7/udp", "-p", lab.HostV4 + ":8305:80"}, "web")
	s.Docker(t, "exec", "-d", "before", "/bin/toolbox", "echo-udp")
	for _, c := range []struct {
		behaviour       string
		everywhere, own bool // whether the neighbour reaches -p 80 and -p HOST:80
	}{
		{"default-local-port-binding", false, true},
		{"local-only-port-binding", false, false},
		{"default-port-binding", true, true},
	} {
		s.Portolan(t, "settings", "set", "portBindingBehavior", c.behaviour)
		for port, want := range map[uint16]bool{8304: c.everywhere, 8305: c.own} {
			eventually(t, fmt.Sprintf("%s: port %d, published before, is reached: %v", c.behaviour, port, want), func() bool {
				_, err := stage.Fetch(t, s.Lab.Neighbour, hostPort(lab.HostV4, port), "/")
				return (err == nil) == want
			})
		}
		eventually(t, fmt.Sprintf("%s: UDP too: %v", c.behaviour, c.everywhere), func() bool {
			_, err := stage.Ask(t, s.Lab.Neighbour, hostPort(lab.HostV4, 8304), "x")
			return (err == nil) == c.everywhere
		})
		for _, loopback := range []string{"127.0.0.1", "::1"} {
			if _, err := stage.Fetch(t, s.Lab.Host, hostPort(loopback, 8304), "/"); err != nil {
				t.Errorf("%s: the port published before, over %s: %v", c.behaviour, loopback, err)
			}
		}
		s.Docker(t, "run", "-d", "--name", "bound", "-p", "8302:80", "-p", lab.HostV4+":8303:80", testimage.Name, "web")
		for _, loopback := range []string{"127.0.0.1", "::1"} {
			eventually(t, c.behaviour+": the host itself is answered over "+loopback, func() bool {
				_, err := stage.Fetch(t, s.Lab.Host, hostPort(loopback, 8302), "/")
				return err == nil
			})
		}
		for port, want := range map[uint16]bool{8302: c.everywhere, 8303: c.own} {
			_, err := stage.Fetch(t, s.Lab.Neighbour, hostPort(lab.HostV4, port), "/")
			if (err == nil) != want {
				t.Errorf("%s: the neighbour's fetch of port %d ends with %v, reached should be %v", c.behaviour, port, err, want)
			}
		}
		s.Docker(t, "rm", "-f", "bound")
	}
}

// checkPending: without a restart the router follows and the engine does not,
// and status says so.
func checkPending(t *testing.T, s *stage.Stage) {
	if out, code := s.TryPortolan(t, "settings", "set", "defaultNetworkingMode", "ipv4only"); code != 1 || !strings.Contains(out, "--later") {
		t.Errorf("without an answer: exit code %d: %s", code, out)
	}
	s.Docker(t, "network", "create", "older")
	s.Docker(t, "network", "create", "--ipv4", "--ipv6=false", "chosen")
	defer s.Docker(t, "network", "rm", "older", "chosen")
	s.Portolan(t, "settings", "set", "--later", "defaultNetworkingMode", "ipv4only")
	eventually(t, "IPv6 is refused", func() bool { return s.Exec(t, "always", "ping", lab.WebV6).Outcome == testimage.NetUnreachable })
	waits := func(p string) bool { return strings.Contains(p, "portolan settings apply") }
	if got := s.Status(t).Pending; !slices.ContainsFunc(got, waits) {
		t.Errorf("pending: %q", got)
	}
	s.Portolan(t, "settings", "apply", "--yes")
	if got := s.Status(t).Pending; len(got) != 2 || !strings.Contains(got[0], "docker0") || !strings.Contains(got[1], "network older has IPv6, which leads nowhere now") {
		t.Errorf("after the restart, with a container on docker0 and a network of before, pending: %q", got)
	}
}

func checkEngineOptions(t *testing.T, s *stage.Stage) {
	driver := func() string { return s.Docker(t, "info", "-f", "{{.LoggingDriver}}") }
	s.Portolan(t, "settings", "set", "--yes", "linuxVM.dockerDaemonOptions", `{"registry-mirrors": ["https://mirror.internet.test"],
		"insecure-registries": ["plain.internet.test"], "default-address-pools": [{"base": "10.77.0.0/16", "size": 24}]}`)
	if got := s.Docker(t, "info", "-f", "{{.RegistryConfig.Mirrors}} {{index .RegistryConfig.IndexConfigs \"plain.internet.test\"}}"); !strings.Contains(got, "[https://mirror.internet.test/]") || !strings.Contains(got, "plain.internet.test [] false") {
		t.Errorf("the engine's registries: %s", got)
	}
	s.Docker(t, "network", "create", "--ipv6=false", "pool")
	if got := s.Docker(t, "network", "inspect", "-f", "{{(index .IPAM.Config 0).Subnet}}", "pool"); !strings.HasPrefix(got, "10.77.") {
		t.Errorf("a network has %s, want one of the chosen pool", got)
	}
	s.Docker(t, "network", "rm", "pool")
	s.Portolan(t, "settings", "set", "--yes", "linuxVM.dockerDaemonOptions", `{"log-driver": "local"}`)
	stage.Eventually(t, 2*time.Second, "status knows that the engine is back", func() bool { return s.Status(t).Engine.Ready })
	if got := driver(); got != "local" {
		t.Errorf("the log driver is %s", got)
	}
	out, code := s.TryPortolan(t, "settings", "set", "--yes", "linuxVM.dockerDaemonOptions", `{"no-such-option": 1}`)
	if code != 1 || !strings.Contains(out, "linuxVM.dockerDaemonOptions: ") || !strings.Contains(out, "no-such-option") {
		t.Errorf("an option that dockerd does not know: exit code %d: %s", code, out)
	}
	// dockerd sees no mistake in this one before it starts.
	out, code = s.TryPortolan(t, "settings", "set", "--yes", "linuxVM.dockerDaemonOptions", noStart)
	if code != 1 || !strings.Contains(out, "dockerd does not start with the options") || !strings.Contains(out, "none0") {
		t.Errorf("an option with which dockerd does not start: exit code %d: %s", code, out)
	}
	if got := driver(); got != "local" {
		t.Errorf("after refused options the log driver is %s", got)
	}
	if got := strings.TrimSpace(s.Portolan(t, "settings", "get", "linuxVM.dockerDaemonOptions")); got != `{"log-driver":"local"}` {
		t.Errorf("after refused options the setting is %s", got)
	}
	s.Portolan(t, "settings", "unset", "--yes", "linuxVM.dockerDaemonOptions")
	if got := s.Status(t); got.Engine.Restarts != 2 || // the failures
		len(got.Pending) != 0 {
		t.Errorf("restarts counted as failures: %d; pending: %q", got.Engine.Restarts, got.Pending)
	}
	body, err := stage.Fetch(t, s.Lab.Neighbour, hostPort(lab.HostV4, 8300), "/")
	if err != nil {
		t.Errorf("the port published before all restarts: %q, %v", body, err)
	}
}

// noStart are engine options that dockerd takes, and does not start with.
const noStart = `{"storage-driver": "none0"}`

// checkBadOptions: a machine starts in spite of options that dockerd does not take,
// or does not start with, and says so.
func checkBadOptions(t *testing.T, s *stage.Stage) {
	s.Portolan(t, "down")
	if out, code := s.TryPortolan(t, "settings", "set", "linuxVM.dockerDaemonOptions", `{"no-such-option": 1}`); code != 1 || !strings.Contains(out, "no-such-option") {
		t.Errorf("an option that the dockerd to come does not know: exit code %d: %s", code, out)
	}
	s.Portolan(t, "settings", "set", "linuxVM.dockerDaemonOptions", `{"log-driver": "local"}`)
	checkStart(t, s)
	for options, want := range map[string]string{
		`{"no-such-option": 1}`: "linuxVM.dockerDaemonOptions: dockerd does not take the options: ",
		noStart:                 "linuxVM.dockerDaemonOptions: dockerd does not start with the options: ",
	} {
		s.Portolan(t, "down")
		write(t, settingsFile(s), `{"linuxVM": {"dockerDaemonOptions": `+options+`}}`)
		s.Portolan(t, "up")
		if got := s.Docker(t, "info", "-f", "{{.LoggingDriver}}"); got != "local" {
			t.Errorf("the log driver is %s, want that of the last good options", got)
		}
		told := func(p string) bool {
			return strings.HasPrefix(p, want) && strings.Contains(p, "portolan settings unset")
		}
		if got := s.Status(t).Problems; !slices.ContainsFunc(got, told) {
			t.Errorf("%s: problems %q, want %q in them", options, got, want)
		}
	}
	s.Portolan(t, "settings", "unset", "--yes", "linuxVM.dockerDaemonOptions")
	if got := s.Status(t); len(got.Problems) != 0 || len(got.Pending) != 0 {
		t.Errorf("after the correction: problems %q, pending %q", got.Problems, got.Pending)
	}
}

// checkDocker0: the default bridge has the mode's IPv6 when no container runs.
func checkDocker0(t *testing.T, s *stage.Stage) {
	if got := s.Docker(t, "ps", "-q"); got != "" {
		t.Fatalf("containers run: %s", got)
	}
	for _, c := range []struct{ mode, want string }{{"ipv4only", "true false"}, {"ipv6only", "true true"}} {
		s.Portolan(t, "settings", "set", "--yes", "defaultNetworkingMode", c.mode)
		if got := networkFamilies(t, s, "bridge"); got != c.want {
			t.Errorf("%s: docker0 has IPv4, IPv6: %s, want %s", c.mode, got, c.want)
		}
		if got := s.Status(t).Pending; len(got) != 0 {
			t.Errorf("%s: pending: %q", c.mode, got)
		}
	}
}

// share is a directory of the lab's host in which an admin file may lie: an
// overlay over the real one, on the lab's host alone.
const share = "/usr/share"

func trustedDir(t *testing.T, s *stage.Stage) {
	t.Helper()
	dir := s.Lab.Dir
	for _, name := range []string{"upper", "work"} {
		if err := os.Mkdir(filepath.Join(dir, name), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	onHost(t, s, "mount", "-t", "overlay", "overlay", "-o",
		fmt.Sprintf("lowerdir=%s,upperdir=%s/upper,workdir=%s/work", share, dir, dir), share)
	t.Cleanup(func() { onHost(t, s, "umount", "-l", share) })
}

func onHost(t *testing.T, s *stage.Stage, name string, args ...string) {
	t.Helper()
	if out, err := s.Command(t.Context(), name, args...).CombinedOutput(); err != nil && t.Context().Err() == nil {
		t.Fatalf("%s %v: %v\n%s", name, args, err, out)
	}
}

// checkLock: an administrator's file wins, within moments, and can't be unset.
func checkLock(t *testing.T, s *stage.Stage) {
	const dir, key = share + "/docker-desktop", "portolan.hostLoopback"
	const path = dir + "/admin-settings.json"
	install := func(text, mode string) {
		t.Helper()
		onHost(t, s, "sh", "-c", fmt.Sprintf("mkdir -p %s && echo '%s' > %s.new && chmod %s %s.new && mv %s.new %s", dir, text, path, mode, path, path, path))
	}
	get := func() testimage.Outcome {
		return s.Exec(t, "always", "get", "http://host.docker.internal:8081/").Outcome
	}
	install(`{"configurationFileVersion": 2, "portolan": {"hostLoopback": {"locked": true, "value": false}}}`, "644")
	eventually(t, "the lock holds", func() bool { return get() != testimage.OK })
	if out, code := s.TryPortolan(t, "settings", "set", key, "true"); code != 1 || !strings.Contains(out, "locked to false by "+path) {
		t.Errorf("set of a locked key: exit code %d: %s", code, out)
	}
	write(t, settingsFile(s), `{"portolan": {"hostLoopback": true}}`)
	if out := s.Portolan(t, "settings", "explain", key); !strings.Contains(out, "* admin lock ("+path+":1): false") || !strings.Contains(out, "user (") {
		t.Errorf("explain: %s", out)
	}
	// What can't be trusted changes nothing; status tells.
	install(`{"configurationFileVersion": 2}`, "666")
	told := func(p string) bool { return strings.Contains(p, "can be written by others") }
	eventually(t, "status names the file", func() bool { return slices.ContainsFunc(s.Status(t).Problems, told) })
	if got := get(); got == testimage.OK {
		t.Error("a file that everybody can write lifts the lock")
	}
	if out, code := s.TryPortolan(t, "--profile", "new", "up"); code != 1 || !strings.Contains(out, path+" can be written by others") {
		t.Errorf("the start of a machine that has no good policy: exit code %d: %s", code, out)
	}
	onHost(t, s, "rm", "-r", dir)
	eventually(t, "the policy is lifted", func() bool { return get() == testimage.OK })
	s.Portolan(t, "settings", "unset", key)
}

func checkBadFile(t *testing.T, s *stage.Stage) {
	s.Portolan(t, "settings", "set", "dnsInhibition", "ipv6")
	write(t, settingsFile(s), "{\n\"dnsInhibition\": \"ipv5\"}")
	told := func(p string) bool {
		return strings.Contains(p, settingsFile(s)+":2: dnsInhibition: \"ipv5\", want one of")
	}
	eventually(t, "status names file, line, key and what is wanted", func() bool { return slices.ContainsFunc(s.Status(t).Problems, told) })
	if got := lookup(t, s, "web.internet.test", "AAAA"); got.Outcome != testimage.NoData {
		t.Errorf("the last good filter is not in force: %s", got.Outcome)
	}
	write(t, settingsFile(s), "{}")
	eventually(t, "the correction counts", func() bool { return lookup(t, s, "web.internet.test", "AAAA").Outcome == testimage.OK })
}

// checkHostWithout takes a family from the host: nothing in a container waits
// for a time-out, and names no longer lead there.
func checkHostWithout(t *testing.T, s *stage.Stage, gone, left family) {
	if err := s.Lab.SetResolvConf("nameserver " + left.dns + "\n"); err != nil {
		t.Fatal(err)
	}
	restore := takeAddresses(t, s, gone)
	const name = "web.internet.test"
	eventually(t, gone.record+" is hidden", func() bool { return lookup(t, s, name, gone.record).Outcome == testimage.NoData })
	checkOut(t, s, "always", left, true)
	checkOut(t, s, "always", gone, false)
	if got := s.Exec(t, "always", "get", "http://"+name+"/ip"); got.Outcome != testimage.OK || got.Duration() > atOnce {
		t.Errorf("by name: %s after %s", got.Outcome, got.Duration())
	}
	if got := lookup(t, s, "host.docker.internal", gone.record); got.Outcome != testimage.OK {
		t.Errorf("host.docker.internal, which does not leave the host, has no %s: %s", gone.record, got.Outcome)
	}
	restore()
	eventually(t, gone.record+" is back", func() bool { return lookup(t, s, name, gone.record).Outcome == testimage.OK })
	checkOut(t, s, "always", gone, true)
}

// takeAddresses takes a family's addresses, and with them its routes, from the
// host's network. The result puts them back.
func takeAddresses(t *testing.T, s *stage.Stage, f family) (restore func()) {
	t.Helper()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	ns, err := netns.GetFromPath(s.Lab.Host.NetNS())
	must(err)
	host, err := netlink.NewHandleAt(ns)
	must(errors.Join(err, ns.Close()))
	link, err := host.LinkByName("lan0")
	must(err)
	addr, err := netlink.ParseAddr(f.prefix)
	must(err)
	gateway := netlink.Route{LinkIndex: link.Attrs().Index, Gw: net.ParseIP(f.gateway)}
	_ = host.RouteDel(&gateway) // IPv4's goes with the address
	must(host.AddrDel(link, addr))
	return func() {
		t.Helper()
		defer host.Close()
		must(s.Lab.Host.AddAddress("lan0", netip.MustParsePrefix(f.prefix)))
		must(host.RouteReplace(&gateway))
	}
}
