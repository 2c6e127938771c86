// Package connect_test holds what docs/connect.md promises: the host reaches
// containers by their own addresses, nobody else does, and nothing of it stays.
package connect_test

import (
	"context"
	"encoding/json"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/portolan-net/portolan/internal/api"
	"github.com/portolan-net/portolan/internal/lab"
	"github.com/portolan-net/portolan/internal/stage"
	"github.com/portolan-net/portolan/internal/testimage"
)

// soon is five times the second in which a change is to be followed.
const soon = 5 * time.Second

// The host's address on the link.
const (
	outsideV4 = "192.168.65.253"
	outsideV6 = "fdc4:f303:9324::253"
)

func TestConnect(t *testing.T) {
	s := stage.New(t)
	play(t, s, func(t *testing.T, args ...string) string { return s.Portolan(t, args...) })
}

// play is the whole test, for root's machine and for a user's: asRoot runs
// portolan with the privilege that connect needs.
func play(t *testing.T, s *stage.Stage, asRoot func(t *testing.T, args ...string) string) {
	before := snapshot(t, s)
	nothing, err := s.Lab.Baseline(filepath.Join(s.RunDir, "default"))
	if err != nil {
		t.Fatal(err)
	}
	s.Portolan(t, "up")
	s.LoadImage(t)
	p := &site{Stage: s, before: before, asRoot: asRoot}
	p.serve(t)
	p.connect(t)
	for _, part := range []struct {
		name  string
		check func(*testing.T, *site)
	}{
		{"every container answers", checkAnswers},
		{"several networks", checkSeveralNetworks},
		{"names", checkNames},
		{"the LAN reaches nothing", checkLAN},
		{"nor by the host's own address", checkMasqueraded},
		{"many routes at once", checkManyRoutes},
		{"a container reaches nothing of the host", checkHostile},
		{"networks stay apart", checkApart},
		{"networks come and go", checkNetworks},
		{"routes of the host", checkOverlap},
		{"the connector is killed", checkKilledConnector},
		{"the daemon is killed", checkKilledDaemon},
		{"the router helper is killed", checkKilledHelper},
		{"two are killed at once", checkKilledTwo},
		{"disconnect", checkDisconnect},
		{"the setting", checkSetting},
	} {
		if !t.Run(part.name, func(t *testing.T) { part.check(t, p) }) && t.Context().Err() != nil {
			return
		}
	}
	if s.Status(t).Connection == nil {
		p.connect(t)
	}
	// Nothing of it needs its processes: down is clean after a crash, too.
	for _, pid := range []int{p.connectorPID(t), s.Status(t).Helper.PID, s.Status(t).Daemon.PID} {
		kill(t, pid)
	}
	s.Portolan(t, "down")
	nothing.Check(t)
	p.checkHost(t, "after down")
}

// site is a machine with containers whose ports are not published.
type site struct {
	*stage.Stage

	before string
	asRoot func(t *testing.T, args ...string) string
	addrs  map[string][]string // of the web server, by network: IPv4, IPv6
}

func (p *site) serve(t *testing.T) {
	t.Helper()
	p.Docker(t, "network", "create", "--ipv6", "mine")
	p.addrs = map[string][]string{}
	for name, network := range map[string]string{"web": "mine", "plain": "bridge"} {
		p.Docker(t, "run", "-d", "--name", name, "--network", network, testimage.Name, "web", "-name", name)
		p.Docker(t, "run", "-d", "--name", name+"-udp", "--network", "container:"+name, testimage.Name, "echo-udp", "-addr", ":7")
		p.addrs[network] = p.addresses(t, name, network)
	}
}

func (p *site) addresses(t *testing.T, container, network string) []string {
	t.Helper()
	return p.ofEachFamily(t, container, network, "{{.IPAddress}} {{.GlobalIPv6Address}}")
}

// gateways are what containers see of the host.
func (p *site) gateways(t *testing.T, container, network string) []string {
	t.Helper()
	return p.ofEachFamily(t, container, network, "{{.Gateway}} {{.IPv6Gateway}}")
}

func (p *site) ofEachFamily(t *testing.T, container, network, format string) []string {
	t.Helper()
	found := strings.Fields(p.Docker(t, "inspect", "-f", `{{with index .NetworkSettings.Networks "`+network+`"}}`+format+`{{end}}`, container))
	if len(found) != 2 {
		t.Fatalf("%s has %v on %s, want one of each family", container, found, network)
	}
	return found
}

func (p *site) connect(t *testing.T) api.Connection {
	t.Helper()
	var c api.Connection
	text := p.asRoot(t, "connect", "--json")
	if err := json.Unmarshal([]byte(text), &c); err != nil {
		t.Fatalf("portolan connect: %v\n%s", err, text)
	}
	return c
}

func snapshot(t *testing.T, s *stage.Stage) string {
	t.Helper()
	text, err := s.Lab.Host.Snapshot()
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// checkHost is the promise that nothing stays behind.
func (p *site) checkHost(t *testing.T, when string) {
	t.Helper()
	var diff []string
	for end := time.Now().Add(soon); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		now, err := p.Lab.Host.Snapshot()
		if err != nil {
			continue // an interface went while it was looked at
		}
		if diff = lab.Diff(p.before, now); len(diff) == 0 {
			return
		}
	}
	t.Errorf("%s the host's network is not what it was:\n%s", when, strings.Join(diff, "\n"))
}

func at(addr string, port uint16) string {
	return netip.AddrPortFrom(netip.MustParseAddr(addr), port).String()
}

// answers reports whether a web server answers the host there, and the address
// that it saw.
func (p *site) answers(t *testing.T, addr string) (seen string, err error) {
	t.Helper()
	return stage.Fetch(t, p.Lab.Host, at(addr, 80), "/ip")
}

func (p *site) eventuallyAnswers(t *testing.T, addr string) {
	t.Helper()
	stage.Eventually(t, soon, addr+" answers", func() bool {
		_, err := p.answers(t, addr)
		return err == nil
	})
}

func checkAnswers(t *testing.T, p *site) {
	for network, addrs := range p.addrs {
		gateways := p.gateways(t, map[string]string{"mine": "web", "bridge": "plain"}[network], network)
		for i, addr := range addrs {
			own := gateways[i]
			if got := p.HostToolbox(t, "ping", addr, "-size", "4000"); got.Outcome != testimage.OK {
				t.Errorf("ping %s on %s: %+v", addr, network, got)
			}
			if seen, err := p.answers(t, addr); err != nil || seen != own {
				t.Errorf("TCP to %s on %s: %v; it sees %q, want %s", addr, network, err, seen, own)
			}
			// More than fits into one packet of the container's, at the first attempt.
			for _, size := range []string{"100", "1473", "30000"} {
				if got := p.HostToolbox(t, "udp-send", at(addr, 7), "-size", size); got.Outcome != testimage.OK {
					t.Errorf("%s bytes over UDP to %s on %s: %+v", size, addr, network, got)
				}
			}
			if got := p.HostToolbox(t, "dial", "tcp", at(addr, 81)); got.Outcome != testimage.Refused {
				t.Errorf("a closed port of %s: %+v, want it refused", addr, got)
			}
			if body, err := stage.Fetch(t, p.Lab.Host, at(addr, 80), "/bytes/3000000"); err != nil || len(body) < 2_900_000 {
				t.Errorf("three million bytes from %s: got %d, %v", addr, len(body), err)
			}
		}
	}
	p.Docker(t, "run", "-d", "--name", "hostnet", "--network", "host", testimage.Name, "web", "-addr", ":8099")
	defer p.Docker(t, "rm", "-f", "hostnet")
	stage.Eventually(t, soon, "a container on the machine's own network answers", func() bool {
		seen, err := stage.Fetch(t, p.Lab.Host, "192.168.65.3:8099", "/ip")
		return err == nil && seen == outsideV4
	})
	c := p.Status(t).Connection
	if c == nil || !strings.HasPrefix(c.Interface, "portolan") || len(c.Networks) < 4 || len(c.Refused) != 0 {
		t.Errorf("status: connection = %+v", c)
	}
	if status := p.Status(t); status.State != api.Running {
		t.Errorf("status: %s, %v", status.State, status.Problems)
	}
}

// A container has a default route into one of its networks, and answers in all.
func checkSeveralNetworks(t *testing.T, p *site) {
	for name, networks := range map[string][]string{"twice": {"mine", "bridge"}, "thrice": {"bridge", "mine", "other"}} {
		if name == "thrice" {
			p.Docker(t, "network", "create", "--ipv6", "other")
			defer p.Docker(t, "network", "rm", "other")
		}
		p.Docker(t, "run", "-d", "--name", name, "--network", networks[0], testimage.Name, "web")
		p.Docker(t, "run", "-d", "--name", name+"-udp", "--network", "container:"+name, testimage.Name, "echo-udp", "-addr", ":7")
		defer p.Docker(t, "rm", "-f", name, name+"-udp")
		for _, network := range networks[1:] {
			p.Docker(t, "network", "connect", network, name)
		}
		for _, network := range networks {
			gateways := p.gateways(t, name, network)
			for i, addr := range p.addresses(t, name, network) {
				p.eventuallyAnswers(t, addr)
				if seen, err := p.answers(t, addr); err != nil || seen != gateways[i] {
					t.Errorf("%s on %s: %v; it sees %q, want %s", name, network, err, seen, gateways[i])
				}
				if got := p.HostToolbox(t, "udp-send", at(addr, 7), "-size", "30000"); got.Outcome != testimage.OK {
					t.Errorf("UDP to %s on %s: %+v", name, network, got)
				}
				if got := p.HostToolbox(t, "ping", addr); got.Outcome != testimage.OK {
					t.Errorf("ping %s on %s: %+v", name, network, got)
				}
			}
		}
	}
}

func checkNames(t *testing.T, p *site) {
	got := p.HostToolbox(t, "lookup", "web.portolan.internal", "A", "-server", "127.0.0.1:5399")
	if len(got.Answers) != 1 || got.Answers[0] != "A "+p.addrs["mine"][0] {
		t.Fatalf("web.portolan.internal: %+v, want %s", got, p.addrs["mine"][0])
	}
	// Programs that know of nothing, with the host's resolver as docs/dns.md has it.
	conf := filepath.Join(t.TempDir(), "portolan.conf")
	if err := os.WriteFile(conf, []byte("server=/portolan.internal/127.0.0.1#5399\nrebind-domain-ok=/portolan.internal/\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	dnsmasq := p.Lab.Host.Command(t.Context(), "dnsmasq", "--keep-in-foreground", "--conf-file="+conf, "--no-hosts", "--no-resolv",
		"--user=root", "--pid-file", "--listen-address=127.0.0.3", "--bind-interfaces", "--stop-dns-rebind", "--server="+lab.DNSV4)
	if err := dnsmasq.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = dnsmasq.Process.Kill()
		_ = dnsmasq.Wait() // it was killed
	}()
	before := p.Lab.Host.Run(t, "cat", "/etc/resolv.conf")
	if err := p.Lab.SetResolvConf("nameserver 127.0.0.3\n"); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := p.Lab.SetResolvConf(before); err != nil {
			t.Error(err)
		}
	}()
	program := func(args ...string) string {
		out, err := p.Command(t.Context(), args[0], args[1:]...).CombinedOutput()
		if err != nil {
			return err.Error()
		}
		return string(out)
	}
	stage.Eventually(t, soon, "getent finds the name", func() bool {
		out := program("getent", "ahosts", "web.portolan.internal")
		return strings.Contains(out, p.addrs["mine"][0]) && strings.Contains(out, p.addrs["mine"][1])
	})
	gateways := p.gateways(t, "web", "mine")
	for flag, own := range map[string]string{"-4": gateways[0], "-6": gateways[1]} {
		if seen := program("curl", flag, "-sS", "--max-time", "5", "http://web.portolan.internal/ip"); strings.TrimSpace(seen) != own {
			t.Errorf("curl %s: %q, want to be seen as %s", flag, seen, own)
		}
	}
}

// The neighbour sends to the containers by way of the host, which forwards.
func checkLAN(t *testing.T, p *site) {
	forward := func(value string) {
		t.Helper()
		for _, name := range []string{"ipv4/ip_forward", "ipv6/conf/all/forwarding"} {
			err := p.Lab.Host.Do(func() error { return os.WriteFile("/proc/sys/net/"+name, []byte(value), 0) })
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	forward("1")
	defer forward("0")
	seen := func(where *lab.Node) (answered []string) {
		for _, addrs := range p.addrs {
			for _, addr := range addrs {
				ctx, cancel := context.WithTimeout(t.Context(), time.Second)
				if conn, err := where.Dial(ctx, "tcp", at(addr, 80)); err == nil {
					conn.Close()
					answered = append(answered, addr)
				}
				cancel()
				if out, err := where.Command(t.Context(), "ping", "-c", "1", "-W", "1", addr).CombinedOutput(); err == nil {
					answered = append(answered, "ping "+addr+string(out))
				}
			}
		}
		return answered
	}
	for _, route := range [][]string{{"172.16.0.0/12", lab.HostV4}, {"fc00::/7", lab.HostV6}, {"192.168.65.0/24", lab.HostV4}} {
		p.Lab.Neighbour.Run(t, "ip", "route", "add", route[0], "via", route[1])
		defer p.Lab.Neighbour.Run(t, "ip", "route", "del", route[0], "via", route[1])
	}
	if got := seen(p.Lab.Neighbour); len(got) != 0 {
		t.Errorf("containers answer the LAN: %v", got)
	}
	if got := seen(p.Lab.Host); len(got) != 8 {
		t.Errorf("the host, which forwards, is answered by %v, want all", got)
	}
}

// Nothing that a container sends begins anything on the host's address there,
// whatever it may do inside the machine.
func checkHostile(t *testing.T, p *site) {
	for i, own := range []string{outsideV4, outsideV6} {
		p.Lab.StartWeb(t, p.Lab.Host, at(own, 9000))
		echo, err := p.Lab.Host.ListenPacket("udp", at(own, 9001))
		if err != nil {
			t.Fatal(err)
		}
		defer echo.Close()
		if _, err := stage.Fetch(t, p.Lab.Host, at(own, 9000), "/"); err != nil {
			t.Fatalf("the host's own server: %v", err)
		}
		for _, hostile := range p.hostile(t) {
			if got := p.Exec(t, hostile, "dial", "tcp", at(own, 9000), "-timeout", "1s"); got.Outcome == testimage.OK || got.Outcome == testimage.Connected {
				t.Errorf("%s opens a connection to %s: %+v", hostile, own, got)
			}
			if got := p.Exec(t, hostile, "ping", own, "-timeout", "1s"); got.Outcome == testimage.OK {
				t.Errorf("%s pings %s: %+v", hostile, own, got)
			}
			for _, src := range []string{[]string{"192.168.65.3", "fdc4:f303:9324::3"}[i], []string{"198.51.100.9", "2001:db8:9::9"}[i], own} {
				p.Exec(t, hostile, "forge-udp", "-src", src, "-dst", at(own, 9001), "-payload", "forged", "-count", "3")
			}
		}
		if err := echo.SetReadDeadline(time.Now().Add(300 * time.Millisecond)); err != nil {
			t.Fatal(err)
		}
		if n, from, err := echo.ReadFrom(make([]byte, 100)); err == nil {
			t.Errorf("a datagram of %d bytes from %s reached the host", n, from)
		}
	}
}

// hostile starts containers that may do different things, and returns their names.
func (p *site) hostile(t *testing.T) []string {
	t.Helper()
	kinds := map[string][]string{"plain-hostile": nil, "net-hostile": {"--network", "mine"}, "privileged-hostile": {"--privileged", "--network", "host"}}
	for name, flags := range kinds {
		if _, code := p.TryDocker(t, "inspect", name); code != 0 {
			p.Docker(t, append(append([]string{"run", "-d", "--name", name}, flags...), testimage.Name, "sleep", "1h")...)
		}
	}
	return slices.Sorted(maps.Keys(kinds))
}

// The host's routes are no way from one network of the engine to another.
func checkApart(t *testing.T, p *site) {
	p.Docker(t, "network", "create", "-d", "macvlan", "-o", "parent=eth0", "--subnet", "192.168.65.0/24",
		"--ip-range", "192.168.65.128/25", "--gateway", "192.168.65.1", "lan")
	defer p.Docker(t, "network", "rm", "lan")
	p.Docker(t, "run", "-d", "--name", "onlan", "--network", "lan", testimage.Name, "web")
	defer p.Docker(t, "rm", "-f", "onlan")
	p.eventuallyAnswers(t, p.Docker(t, "inspect", "-f", `{{.NetworkSettings.Networks.lan.IPAddress}}`, "onlan"))
	for _, flags := range [][]string{nil, {"--network", "lan"}} {
		web := p.addrs["mine"][0]
		for _, try := range [][]string{
			{"get", "http://" + at(web, 80) + "/", "-timeout", "2s"},
			{"udp-send", at(web, 7), "-timeout", "1s"},
			{"ping", web, "-timeout", "1s"},
		} {
			if got := p.Toolbox(t, flags, try...); got.Outcome == testimage.OK {
				t.Errorf("a container with %v reaches another network: %s: %+v", flags, try, got)
			}
		}
	}
}

func checkNetworks(t *testing.T, p *site) {
	p.Docker(t, "network", "create", "--ipv6", "--subnet", "10.77.0.0/16", "--subnet", "fd77::/64", "late")
	p.Docker(t, "run", "-d", "--name", "late", "--network", "late", testimage.Name, "web")
	for _, addr := range p.addresses(t, "late", "late") {
		p.eventuallyAnswers(t, addr)
	}
	p.Docker(t, "rm", "-f", "late")
	p.Docker(t, "network", "rm", "late")
	stage.Eventually(t, soon, "its routes are gone", func() bool {
		return !strings.Contains(snapshot(t, p.Stage), "10.77.0.0/16") && !strings.Contains(snapshot(t, p.Stage), "fd77::")
	})
}

// What the host reaches otherwise stays where it is, when it comes and when it
// was there.
func checkOverlap(t *testing.T, p *site) {
	web := p.addrs["mine"][0]
	vpn := netip.PrefixFrom(netip.MustParseAddr(web), 24).Masked().String()
	p.Lab.Host.Run(t, "ip", "route", "add", vpn, "via", lab.GatewayV4)
	refused := func() string {
		if c := p.Status(t).Connection; c != nil {
			return strings.Join(c.Refused, "\n")
		}
		return ""
	}
	stage.Eventually(t, soon, "the network is left to the host", func() bool {
		return strings.Contains(refused(), "this host has a route to "+vpn+" on lan0") &&
			strings.Count(snapshot(t, p.Stage), strings.TrimSuffix(vpn, "0/24")) == 1
	})
	if _, err := p.answers(t, p.addrs["bridge"][0]); err != nil {
		t.Errorf("another network: %v", err)
	}
	// The same in a table that only a rule leads to; one that throws back is none.
	p.Lab.Host.Run(t, "ip", "route", "add", "throw", vpn, "table", "101")
	defer p.Lab.Host.Run(t, "ip", "route", "del", "throw", vpn, "table", "101")
	p.Lab.Host.Run(t, "ip", "route", "del", vpn)
	p.eventuallyAnswers(t, web)
	p.Lab.Host.Run(t, "ip", "route", "add", vpn, "via", lab.GatewayV4, "table", "100")
	p.Lab.Host.Run(t, "ip", "rule", "add", "from", lab.HostV4, "lookup", "100")
	stage.Eventually(t, soon, "the network is left to the other table", func() bool {
		return strings.Contains(refused(), "this host has a route to "+vpn+" on lan0 in table 100")
	})
	p.Lab.Host.Run(t, "ip", "rule", "del", "from", lab.HostV4, "lookup", "100")
	p.Lab.Host.Run(t, "ip", "route", "del", vpn, "table", "100")
	p.eventuallyAnswers(t, web)
	p.Lab.Host.Run(t, "ip", "route", "add", vpn, "via", lab.GatewayV4)

	p.Portolan(t, "disconnect")
	text := p.asRoot(t, "connect", "--json")
	if !strings.Contains(text, "this host has a route to "+vpn) {
		t.Errorf("connect does not name %s: %s", vpn, text)
	}
	p.Lab.Host.Run(t, "ip", "route", "del", vpn)
	p.eventuallyAnswers(t, web)
	if got := refused(); got != "" {
		t.Errorf("still refused: %s", got)
	}
}

// connectorPID finds the connector of this stage.
func (p *site) connectorPID(t *testing.T) int {
	t.Helper()
	paths, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, path := range paths {
		text, _ := os.ReadFile(path)
		environ, _ := os.ReadFile(filepath.Join(filepath.Dir(path), "environ"))
		args := strings.Split(string(text), "\x00")
		if len(args) > 1 && args[1] == "connector" && strings.Contains(string(environ), p.Lab.Dir) {
			pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(path)))
			return pid
		}
	}
	t.Fatal("find the connector: it does not run")
	return 0
}

func kill(t *testing.T, pid int) {
	t.Helper()
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
}

func checkKilledConnector(t *testing.T, p *site) {
	kill(t, p.connectorPID(t))
	p.checkHost(t, "after the connector was killed")
	if c := p.Status(t).Connection; c != nil {
		t.Errorf("status: %+v", c)
	}
	p.connect(t)
	p.eventuallyAnswers(t, p.addrs["mine"][0])
}

func checkKilledDaemon(t *testing.T, p *site) {
	was := p.Status(t).Daemon.PID
	kill(t, was)
	if _, err := p.answers(t, p.addrs["mine"][0]); err != nil {
		t.Errorf("while there is no daemon: %v", err)
	}
	stage.Eventually(t, 20*time.Second, "another daemon runs", func() bool {
		text, code := p.TryPortolan(t, "status", "--json")
		var status api.Status
		return code == 0 && json.Unmarshal([]byte(text), &status) == nil && status.State == api.Running && status.Daemon.PID != was
	})
	if _, err := p.answers(t, p.addrs["mine"][1]); err != nil {
		t.Errorf("with another daemon: %v", err)
	}
	if p.Status(t).Connection == nil {
		t.Error("another daemon does not know that the host is connected")
	}
}

// Another helper takes over, and the connector finds it; a connection that
// stood goes on.
func checkKilledHelper(t *testing.T, p *site) {
	conn, err := p.Lab.Host.Dial(t.Context(), "tcp", at(p.addrs["mine"][0], 80))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	helper := p.Status(t).Helper.PID
	kill(t, helper)
	stage.Eventually(t, soon, "the host is connected again", func() bool {
		if now := p.Status(t); now.Helper.PID == helper || now.Connection == nil {
			return false // what stands for a moment is of the one that died
		}
		// Without the routes an attempt leads to the LAN's gateway, and nobody answers.
		ctx, cancel := context.WithTimeout(t.Context(), soon/10)
		defer cancel()
		conn, err := p.Lab.Host.Dial(ctx, "tcp", at(p.addrs["mine"][0], 80))
		if err != nil {
			return false
		}
		_ = conn.Close()
		return true
	})
	if err := conn.SetDeadline(time.Now().Add(soon)); err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Write([]byte("GET /ip HTTP/1.0\r\n\r\n")); err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Read(make([]byte, 100)); err != nil {
		t.Errorf("a connection that stood: %v", err)
	}
}

// Two of those that know of the connection die at once; the host is left as it
// was by those that come after them.
func checkKilledTwo(t *testing.T, p *site) {
	for name, other := range map[string]func(api.Status) int{
		"daemon": func(s api.Status) int { return s.Daemon.PID }, "helper": func(s api.Status) int { return s.Helper.PID },
	} {
		pid := other(p.Status(t))
		kill(t, p.connectorPID(t))
		kill(t, pid)
		p.checkHost(t, "after connector and "+name+" were killed at once,")
		stage.Eventually(t, 20*time.Second, "another "+name+" runs", func() bool {
			text, code := p.TryPortolan(t, "status", "--json")
			var status api.Status
			return code == 0 && json.Unmarshal([]byte(text), &status) == nil && status.State == api.Running && other(status) != pid
		})
		p.connect(t)
		p.eventuallyAnswers(t, p.addrs["mine"][0])
	}
}

func checkDisconnect(t *testing.T, p *site) {
	p.Portolan(t, "disconnect")
	if diff := lab.Diff(p.before, snapshot(t, p.Stage)); len(diff) != 0 {
		t.Errorf("after disconnect the host's network is not what it was:\n%s", strings.Join(diff, "\n"))
	}
	if got, err := p.answers(t, p.addrs["mine"][0]); err == nil {
		t.Errorf("the container still answers: %s", got)
	}
	p.Portolan(t, "disconnect") // nothing to do
	if got := p.Toolbox(t, nil, "dial", "tcp", at(outsideV4, 9000), "-timeout", "2s"); got.Outcome == testimage.OK || got.Outcome == testimage.Connected {
		t.Errorf("something listens where the host was: %+v", got)
	}
	first := p.connect(t)
	if out := p.asRoot(t, "connect"); !strings.Contains(out, "connected already: ") || !strings.Contains(out, first.Interface) {
		t.Errorf("connect twice: %s", out)
	}
	if again := p.connect(t); again.Interface != first.Interface || !slices.Equal(again.Networks, first.Networks) {
		t.Errorf("connected twice: %+v, at first %+v", again, first)
	}
	p.eventuallyAnswers(t, p.addrs["mine"][0])
}

func checkSetting(t *testing.T, p *site) {
	checkPublishedOnly(t, p)
	p.Portolan(t, "settings", "set", "portolan.connect", "off")
	p.checkHost(t, "after portolan.connect became off")
	out, code := p.TryPortolan(t, "connect")
	if code != 1 || !strings.Contains(out, "portolan.connect is off") {
		t.Errorf("connect: exit code %d: %s", code, out)
	}
	if out, code := p.TryPortolan(t, "settings", "set", "portolan.connect", "some"); code == 0 || !strings.Contains(out, "all, published, off") {
		t.Errorf("a wrong value: exit code %d: %s", code, out)
	}
	p.Portolan(t, "settings", "set", "portolan.connect", "all")
}

// checkPublishedOnly: with the setting, the connected host reaches published
// ports, at the containers' own addresses, and no others.
func checkPublishedOnly(t *testing.T, p *site) {
	web := p.addrs["mine"]
	stands, err := p.Lab.Host.Dial(t.Context(), "tcp", at(web[0], 80))
	if err != nil {
		t.Fatal(err)
	}
	defer stands.Close()
	p.Docker(t, "run", "-d", "--name", "public", "--network", "mine", "-p", "127.0.0.1:18080:80", "-p", "127.0.0.1:18090-18092:90-92", testimage.Name, "web", "-name", "public")
	defer p.Docker(t, "rm", "-f", "public")
	public := p.addresses(t, "public", "mine")[0]
	p.Portolan(t, "settings", "set", "portolan.connect", "published")
	ends := func(outcome string, addr string, port uint16) {
		t.Helper()
		stage.Eventually(t, soon, at(addr, port)+": "+outcome, func() bool {
			return string(p.HostToolbox(t, "dial", "tcp", at(addr, port), "-timeout", "2s").Outcome) == outcome
		})
	}
	for _, addr := range web {
		ends(string(testimage.Refused), addr, 80)
		if got := p.HostToolbox(t, "udp-send", at(addr, 7), "-timeout", "1s"); got.Outcome == testimage.OK {
			t.Errorf("UDP to a port of %s that is not published: %+v", addr, got)
		}
		if got := p.HostToolbox(t, "ping", addr); got.Outcome != testimage.OK {
			t.Errorf("ping %s: %+v", addr, got)
		}
	}
	if err := stands.SetDeadline(time.Now().Add(soon)); err != nil {
		t.Fatal(err)
	}
	_, err = stands.Write([]byte("GET /ip HTTP/1.0\r\n\r\n"))
	if _, readErr := stands.Read(make([]byte, 1)); err == nil && readErr == nil {
		t.Error("a connection to a port that is not published goes on")
	}
	p.eventuallyAnswers(t, public)
	ends(string(testimage.Refused), public, 81)
	p.Docker(t, "run", "-d", "--name", "hostnet", "--network", "host", testimage.Name, "web", "-addr", ":8098")
	defer p.Docker(t, "rm", "-f", "hostnet")
	stage.Eventually(t, soon, "a port that is the host's, too, answers", func() bool {
		_, err := stage.Fetch(t, p.Lab.Host, "192.168.65.3:8098", "/ip")
		return err == nil
	})
	if c := p.Status(t).Connection; c == nil {
		t.Error("status: not connected")
	}
	// What is published later is followed, and so is its end.
	p.Portolan(t, "ports", "add", "web", "127.0.0.1:18081:80")
	p.eventuallyAnswers(t, web[0])
	p.Portolan(t, "ports", "rm", "web", "127.0.0.1:18081:80")
	ends(string(testimage.Refused), web[0], 80)
	kill(t, p.MachineProcess(t, "portolan-agent serve"))
	ends(string(testimage.Refused), web[0], 80)
	p.eventuallyAnswers(t, public)
	p.Portolan(t, "settings", "set", "portolan.connect", "all")
	p.eventuallyAnswers(t, web[0])
}
