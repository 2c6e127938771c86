package e2e

import (
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/portolan-net/portolan/internal/lab"
	"github.com/portolan-net/portolan/internal/portolan"
	"github.com/portolan-net/portolan/internal/stage"
	"github.com/portolan-net/portolan/internal/testimage"
)

// Networks of the engine are apart with its other firewall backend, too, which
// the profile's settings choose.
func TestNetworksApartWithNftables(t *testing.T) {
	s := stage.New(t)
	options := setEngineOptions(t, s, `{"firewall-backend": "nftables", "ip-masq": true}`)
	if out, code := s.TryPortolan(t, "up"); code != 1 || !strings.Contains(out, options) || !strings.Contains(out, `"ip-masq"`) {
		t.Errorf("up with an option of Portolan's own: exit code %d: %s", code, out)
	}
	setEngineOptions(t, s, `{"firewall-backend": "nftables"}`)
	s.Portolan(t, "up")
	s.LoadImage(t)
	if got := s.Docker(t, "info", "-f", "{{.FirewallBackend.Driver}}"); !strings.HasPrefix(got, "nftables") {
		t.Fatalf("the engine's firewall backend is %s", got)
	}
	one, two, bridge := newIsland(t, s, "one", 8101), newIsland(t, s, "two", 8102), newIsland(t, s, "bridge", 8103)
	checkIslands(t, s, []*island{one, two, bridge})
	t.Run("forged sources", func(t *testing.T) { checkForgedByBridge(t, s, one, two) })
	t.Run("--internal", func(t *testing.T) { checkInternal(t, s) })
}

// setEngineOptions writes the profile's settings and returns their path.
func setEngineOptions(t *testing.T, s *stage.Stage, text string) string {
	t.Helper()
	path := filepath.Join(s.ConfDir, "default", "settings.json")
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(`{"linuxVM": {"dockerDaemonOptions": `+text+`}}`), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// TestIsolation shows what keeps containers, networks, machine and host apart.
func TestIsolation(t *testing.T) {
	s := stage.New(t)
	routeOfTheHost(t, s)
	s.Portolan(t, "up")
	s.LoadImage(t)
	if got := s.Docker(t, "info", "-f", "{{.FirewallBackend.Driver}}"); !strings.HasPrefix(got, "iptables") {
		t.Errorf("the engine's firewall backend is %s", got)
	}
	one, two, bridge := newIsland(t, s, "one", 8101), newIsland(t, s, "two", 8102), newIsland(t, s, "bridge", 8103)
	checkIslands(t, s, []*island{one, two, bridge})
	t.Run("the host's networks are avoided", func(t *testing.T) { checkRoutesAvoided(t, s, one) })
	t.Run("networks with subnets of the user's", func(t *testing.T) { checkCustomSubnets(t, s) })
	t.Run("forged sources", func(t *testing.T) {
		t.Run("on a bridge", func(t *testing.T) { checkForgedByBridge(t, s, one, two) })
		t.Run("on macvlan", func(t *testing.T) { checkForgedByMacvlan(t, s, two) })
		t.Run("on the link", func(t *testing.T) { checkLinkLies(t, s, one) })
		t.Run("which others believe", func(t *testing.T) { checkLiesAreGood(t, s) })
	})
	t.Run("a datagram for nobody crosses once", func(t *testing.T) { checkCrossesOnce(t, s, one) })
	t.Run("a network that has gone", func(t *testing.T) { checkGone(t, s, one) })
	t.Run("names of containers", func(t *testing.T) { checkNames(t, s, one, two, bridge) })
	t.Run("docker network connect", func(t *testing.T) { checkConnect(t, s, one, two) })
	t.Run("--network none", func(t *testing.T) { checkNone(t, s) })
	t.Run("control sockets", func(t *testing.T) { checkControlSockets(t, s) })
	t.Run("side by side", func(t *testing.T) { // one waits, the other works
		t.Run("--internal", func(t *testing.T) {
			t.Parallel()
			checkInternal(t, s)
		})
		t.Run("all ports of Portolan's addresses", func(t *testing.T) {
			t.Parallel()
			checkPorts(t, s, one)
		})
	})
}

// The host reaches 172.18.0.0/16, which the engine would take for its first
// network, by its neighbour.
const (
	hostsOwn     = "172.18.0.0/16"
	hostsOwnPeer = "172.18.0.2"
)

func routeOfTheHost(t *testing.T, s *stage.Stage) {
	t.Helper()
	s.Lab.Host.Run(t, "ip", "route", "add", hostsOwn, "via", lab.NeighbourV4)
	if err := s.Lab.Neighbour.AddAddress("lan0", netip.MustParsePrefix(hostsOwnPeer+"/32")); err != nil {
		t.Fatal(err)
	}
	s.Lab.StartWeb(t, s.Lab.Neighbour, hostPort(hostsOwnPeer, 80))
}

// checkRoutesAvoided shows that the engine chose no network of the host's, and
// that those are reached.
func checkRoutesAvoided(t *testing.T, s *stage.Stage, i *island) {
	t.Helper()
	host := []netip.Prefix{netip.MustParsePrefix(hostsOwn), netip.MustParsePrefix("192.0.2.0/24"), netip.MustParsePrefix("2001:db8:1::/64")}
	subnets := strings.Fields(s.Docker(t, "network", "inspect", "-f", "{{range .IPAM.Config}}{{.Subnet}} {{end}}", "one", "two", "bridge"))
	if len(subnets) != 6 {
		t.Fatalf("three networks have the subnets %v", subnets)
	}
	for _, subnet := range subnets {
		if slices.ContainsFunc(host, netip.MustParsePrefix(subnet).Overlaps) {
			t.Errorf("the engine took %s, which the host reaches elsewhere", subnet)
		}
	}
	for _, addr := range []string{hostsOwnPeer, lab.NeighbourV4} {
		if addr == lab.NeighbourV4 {
			s.Lab.StartWeb(t, s.Lab.Neighbour, hostPort(addr, 80))
		}
		if r := s.Exec(t, i.client, "get", "http://"+hostPort(addr, 80)+"/ip"); r.Outcome != testimage.OK || strings.TrimSpace(r.Body) != lab.HostV4 {
			t.Errorf("%s, which the host reaches: %+v", addr, r)
		}
	}
}

// checkCustomSubnets shows that what a user chooses works as what the engine does.
func checkCustomSubnets(t *testing.T, s *stage.Stage) {
	t.Helper()
	s.Docker(t, "network", "create", "--ipv6", "--subnet", "10.77.0.0/24", "--gateway", "10.77.0.9", "--subnet", "fd77:1::/64", "chosen")
	t.Cleanup(func() { s.Docker(t, "network", "rm", "chosen") })
	from := inContainer(t, s, "chosen", "--network", "chosen", "--ip", "10.77.0.77", "--ip6", "fd77:1::77")
	var probes []string
	for _, f := range families() {
		probes = append(probes, "get http://"+hostPort(f.web, 80)+"/ip", "udp-send "+hostPort(f.web, 7), "ping "+f.web)
	}
	for i, r := range from.together(t, probes) {
		if r.Outcome != testimage.OK {
			t.Errorf("%s: %+v", probes[i], r)
		}
	}
}

// checkNames shows who is known to whom.
func checkNames(t *testing.T, s *stage.Stage, one, two, bridge *island) {
	t.Helper()
	for _, i := range []*island{one, two} {
		r := s.Exec(t, i.client, "lookup", i.web)
		slices.Sort(r.Answers)
		want := slices.Sorted(slices.Values(i.webAddr[:]))
		if r.Outcome != testimage.OK || !slices.Equal(r.Answers, want) {
			t.Errorf("%s on %s: %s %v, want %v", i.web, i.network, r.Outcome, r.Answers, want)
		}
	}
	for _, c := range []struct{ client, name string }{
		{bridge.client, bridge.web}, {bridge.client, one.web}, {one.client, two.web}, {two.client, one.web}, {one.client, bridge.web},
	} {
		if r := s.Exec(t, c.client, "lookup", c.name); r.Outcome == testimage.OK || len(r.Answers) > 0 {
			t.Errorf("%s knows %s: %+v", c.client, c.name, r)
		}
	}
}

// checkConnect shows that a container on two networks reaches both, as long as it is.
func checkConnect(t *testing.T, s *stage.Stage, one, two *island) {
	t.Helper()
	get := "http://" + two.web + "/"
	s.Docker(t, "network", "connect", two.network, one.client)
	for _, f := range []int{0, 1} {
		if r := s.Exec(t, one.client, "dial", "tcp", hostPort(two.webAddr[f], 80)); r.Outcome != testimage.Connected {
			t.Errorf("connected, %s: %+v", two.webAddr[f], r)
		}
	}
	if r := s.Exec(t, one.client, "get", get); r.Outcome != testimage.OK {
		t.Errorf("connected, %s: %+v", get, r)
	}
	if r := s.Exec(t, one.client, "get", "http://"+one.web+"/"); r.Outcome != testimage.OK {
		t.Errorf("still on its first network: %+v", r)
	}
	if r := s.Exec(t, one.client, "get", "http://"+hostPort(lab.WebV4, 80)+"/"); r.Outcome != testimage.OK {
		t.Errorf("outbound with two networks: %+v", r)
	}
	s.Docker(t, "network", "disconnect", two.network, one.client)
	if r := s.Exec(t, one.client, "get", get, "-timeout", silence); r.Outcome == testimage.OK {
		t.Errorf("disconnected, yet %s answers", get)
	}
	checkApart(t, s, one, []*island{two})
}

func checkNone(t *testing.T, s *stage.Stage) {
	t.Helper()
	flags := []string{"--network", "none"}
	for _, i := range s.Toolbox(t, flags, "ifaces").Ifaces {
		if i.Name == "lo" {
			continue
		}
		// Templates of the kernel's tunnel modules are in every namespace, down and without address.
		if i.Up || len(i.Addresses) > 0 {
			t.Errorf("interface %+v", i)
		}
	}
	for _, f := range families() {
		if r := s.Toolbox(t, flags, "dial", "tcp", hostPort(f.web, 80)); r.Outcome != testimage.NetUnreachable {
			t.Errorf("%s: %+v", f.web, r)
		}
	}
}

// checkInternal shows that an internal network has no way out, not even for a
// container that gives itself routes, and no names from outside.
func checkInternal(t *testing.T, s *stage.Stage) {
	t.Helper()
	s.Docker(t, "network", "create", "--internal", "inner")
	t.Cleanup(func() { s.Docker(t, "network", "rm", "inner") })
	s.Serve(t, "inner-web", []string{"--network", "inner"}, "web")
	s.Docker(t, "run", "-d", "--name", "inner-client", "--network", "inner", "--cap-add", "NET_ADMIN", testimage.Name, "sleep", "1h")
	t.Cleanup(func() { s.Docker(t, "rm", "-f", "inner-client") })

	if r := s.Exec(t, "inner-client", "get", "http://inner-web/"); r.Outcome != testimage.OK {
		t.Errorf("the neighbour by name: %+v", r)
	}
	checkNoWayOut(t, s, "as it is")

	// Its bridge has an address in the machine; a container with NET_ADMIN may use that as a gateway.
	subnets := s.Docker(t, "network", "inspect", "-f", "{{range .IPAM.Config}}{{.Subnet}} {{end}}", "inner")
	for subnet := range strings.FieldsSeq(subnets) {
		gateway, option := netip.MustParsePrefix(subnet).Masked().Addr().Next(), "-4"
		if gateway.Is6() {
			option = "-6"
		}
		s.Docker(t, "exec", "inner-client", "ip", option, "route", "add", "default", "via", gateway.String())
	}
	checkNoWayOut(t, s, "with a default route")
}

// checkNoWayOut tries every way.
func checkNoWayOut(t *testing.T, s *stage.Stage, how string) {
	t.Helper()
	name := "by-" + strings.ReplaceAll(how, " ", "-") + ".internet.test"
	probes := []string{
		"lookup web.internet.test", "lookup " + name, "lookup " + name + " TXT", "lookup " + name + " A -tcp",
		"lookup host.docker.internal",
	}
	for i := range probes {
		probes[i] += " -timeout 3s" // the engine's resolver may try
	}
	for f, fam := range families() {
		s.Internet.UDPEcho[f].Forget()
		s.Internet.Web[f].Forget()
		dns := map[string]string{"IPv4": "192.168.65.7", "IPv6": "fdc4:f303:9324::7"}[fam.name]
		probes = append(probes,
			fmt.Sprintf("dial tcp %s -timeout %s", hostPort(fam.web, 80), silence),
			fmt.Sprintf("dial udp %s -timeout %s", hostPort(fam.web, 7), silence),
			fmt.Sprintf("ping %s -timeout %s", fam.web, silence),
			fmt.Sprintf("dial tcp %s -timeout %s", hostPort(hostAlias(fam), 8101), silence),
			fmt.Sprintf("dial tcp %s -timeout %s", hostPort(fam.host, 80), silence),
			fmt.Sprintf("lookup %s A -server %s -timeout %s", name, dns, silence),
			fmt.Sprintf("ping %s -timeout %s", dns, silence),
		)
	}
	for i, r := range within(s, "inner-client").together(t, probes) {
		if r.Outcome == testimage.OK || r.Outcome == testimage.Connected || len(r.Answers) > 0 {
			t.Errorf("%s: %s: %+v", how, probes[i], r)
		}
	}
	for f := range families() {
		if seen := append(s.Internet.UDPEcho[f].Clients(), s.Internet.Web[f].Clients()...); len(seen) != 0 {
			t.Errorf("%s: the internet heard from %v", how, seen)
		}
		for _, server := range []*lab.DNS{s.Internet.DNS[f], s.Internet.DNS2[f]} {
			for _, query := range server.Queries() {
				if strings.HasPrefix(query.Name, name) {
					t.Errorf("%s: the host's resolver was asked: %s", how, query)
				}
			}
		}
	}
}

// checkCrossesOnce counts a datagram on the machine's link: one for which there
// is nobody must not go to and fro until its TTL ends.
func checkCrossesOnce(t *testing.T, s *stage.Stage, i *island) {
	t.Helper()
	eth0 := startCapture(t, s.Status(t).Machine.PID, "eth0")
	send := func(f int, payload, dst string) {
		t.Helper()
		if r := s.Exec(t, i.client, "forge-udp", "-src", i.clientAddr[f], "-dst", dst, "-payload", payload); r.Outcome != testimage.OK {
			t.Fatalf("%s: %+v", payload, r)
		}
		eth0.await(t, payload)
	}
	texts := []string{}
	for f, fam := range families() {
		for n, dst := range []string{
			hostPort(map[string]string{"IPv4": lab.EmptyV4, "IPv6": lab.EmptyV6}[fam.name], 9),
			hostPort(hostAlias(fam), 9),
			hostPort(map[string]string{"IPv4": "192.168.65.1", "IPv6": "fdc4:f303:9324::1"}[fam.name], 9),
			hostPort(map[string]string{"IPv4": "172.31.255.7", "IPv6": "fd99::7"}[fam.name], 9),
		} {
			text := fmt.Sprintf("nobody-%s-%d", fam.name, n)
			send(f, text, dst)
			texts = append(texts, text)
		}
		send(f, "end-"+fam.name, hostPort(fam.web, 7)) // and whatever went before has come back, if it does
	}
	for _, text := range texts {
		if in, out := eth0.count(text); in != 0 || out != 1 {
			t.Errorf("%s went out %d times and came back %d times", text, out, in)
		}
	}

	// The same from the host: published, but nobody listens in the container.
	s.Docker(t, "run", "-d", "--name", "deaf", "--network", i.network, "-p", "127.0.0.1:8109:9/udp", "-p", "[::1]:8109:9/udp", testimage.Name, "sleep", "1h")
	t.Cleanup(func() { s.Docker(t, "rm", "-f", "deaf") })
	for _, host := range []string{"127.0.0.1", "::1"} {
		text := "deaf-" + host
		sendDatagram(t, s, hostPort(host, 8109), text)
		eth0.await(t, text)
	}
	send(0, "fence-4", hostPort(lab.WebV4, 7))
	send(1, "fence-6", hostPort(lab.WebV6, 7))
	for _, text := range []string{"deaf-127.0.0.1", "deaf-::1"} {
		if in, out := eth0.count(text); in != 1 || out != 0 {
			t.Errorf("%s came in %d times and went out %d times", text, in, out)
		}
	}
}

// sendDatagram sends one datagram from the host.
func sendDatagram(t *testing.T, s *stage.Stage, addr, text string) {
	t.Helper()
	conn, err := s.Lab.Host.Dial(t.Context(), "udp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := conn.Write([]byte(text)); err != nil {
		t.Errorf("send to %s: %v", addr, err)
	}
}

// quickly is the bound for what must not wait for a time-out: a refusal takes
// some milliseconds.
const quickly = 5 * time.Second

// checkGone dials addresses of a network that is no more, from a container and
// through a published port whose engine has not noticed.
func checkGone(t *testing.T, s *stage.Stage, i *island) {
	t.Helper()
	s.Docker(t, "network", "create", "--subnet", "10.78.0.0/24", "--subnet", "fd78::/64", "--ipv6", "-o", "com.docker.network.bridge.name=br-gone", "gone")
	s.Serve(t, "gone-web", []string{"--network", "gone", "-p", "127.0.0.1:8108:80", "-p", "[::1]:8108:80", "-p", "127.0.0.1:8108:9/udp", "-p", "[::1]:8108:9/udp"}, "web")
	addrs, _ := addresses(t, s, "gone-web", "gone")
	for _, host := range []string{"127.0.0.1", "::1"} {
		if _, err := stage.Fetch(t, s.Lab.Host, hostPort(host, 8108), "/"); err != nil {
			t.Fatalf("before: %v", err)
		}
	}
	machine := s.Status(t).Machine.PID
	s.Lab.Host.Run(t, "nsenter", "-t", fmt.Sprint(machine), "-n", "ip", "link", "delete", "br-gone")
	eth0 := startCapture(t, machine, "eth0")
	for _, host := range []string{"127.0.0.1", "::1"} {
		start := time.Now()
		if body, err := stage.Fetch(t, s.Lab.Host, hostPort(host, 8108), "/"); err == nil || time.Since(start) > quickly {
			t.Errorf("published on %s, its network gone: %q, %v after %s", host, body, err, time.Since(start))
		}
		sendDatagram(t, s, hostPort(host, 8108), "gone-"+host)
		eth0.await(t, "gone-"+host)
	}
	s.Docker(t, "rm", "-f", "gone-web")
	s.Docker(t, "network", "rm", "gone")
	for _, text := range []string{"gone-127.0.0.1", "gone-::1"} { // the engine's work took longer than any way round
		if in, out := eth0.count(text); in != 1 || out != 0 {
			t.Errorf("%s came in %d times and went out %d times", text, in, out)
		}
	}
	for _, addr := range addrs {
		r := s.Exec(t, i.client, "dial", "tcp", hostPort(addr, 80))
		if r.Outcome == testimage.Connected || r.Outcome == testimage.Timeout || r.Duration() > quickly {
			t.Errorf("dial to a network that has gone: %+v", r)
		}
	}
}

// checkControlSockets shows that what commands daemon and engine is the owner's
// alone on the host, and is not to be found in the machine.
func checkControlSockets(t *testing.T, s *stage.Stage) {
	t.Helper()
	run, machine := filepath.Join(s.RunDir, "default"), s.Status(t).Machine.PID
	for name, want := range map[string]fs.FileMode{
		"": 0o700, "docker.sock": 0o600, "portolan.sock": 0o600, "helper.sock": 0o600,
		"machine": 0o700, "machine/daemon.sock": 0o600,
	} {
		info, err := os.Stat(filepath.Join(run, name))
		if err != nil || info.Mode().Perm() != want {
			t.Errorf("%s: %v, want %s", filepath.Join(run, name), info.Mode(), want)
		}
	}
	inside := func(path string) string { return filepath.Join("/proc", strconv.Itoa(machine), "root", path) }
	if _, err := os.Stat(inside("/run/portolan/daemon.sock")); err != nil {
		t.Errorf("the machine is not what this test looks at: %v", err)
	}
	// What DOCKER_HOST names leads to the machine's own engine, not to the host.
	if entries, err := os.ReadDir(inside(run)); err != nil || len(entries) != 1 || entries[0].Name() != "docker.sock" {
		t.Errorf("in the machine %s holds %v (%v), want docker.sock alone", run, entries, err)
	}
	if to, err := os.Readlink(inside(filepath.Join(run, "docker.sock"))); err != nil || to != "/run/docker.sock" {
		t.Errorf("in the machine docker.sock is a link to %q (%v), want the engine's /run/docker.sock", to, err)
	}

	flags := []string{"run", "--rm", "--network", "host", "--entrypoint", "/bin/sh", "-v", run + ":/bound", "-v", "/:/host", testimage.Name, "-c"}
	if out := s.Docker(t, append(flags, "ls -A /bound /host"+run+" && echo listed")...); strings.Contains(strings.ReplaceAll(out, "docker.sock", ""), ".sock") || !strings.Contains(out, "listed") {
		t.Errorf("a container that mounts %s sees %s", run, out)
	}
	// Fields of /proc/net/unix: ..., flags, type, state, inode, path; 10000 marks a listener, @ an abstract name.
	out := s.Docker(t, append(flags, "cat /proc/net/unix")...)
	if !strings.Contains(out, "/run/docker.sock") {
		t.Errorf("a container with the machine's network does not see its unix sockets:\n%s", out)
	}
	for line := range strings.Lines(out) {
		fields := strings.Fields(line)
		if len(fields) < 8 {
			continue
		}
		if path := fields[7]; fields[3] == "00010000" && (strings.HasPrefix(path, s.RunDir) || strings.HasPrefix(path, "@")) {
			t.Errorf("a container with the machine's network can name the socket %s", path)
		}
	}
}

// checkPorts scans every address that Portolan answers for: IPv4 whole, IPv6 up
// to where a service would be, the machine's whole.
func checkPorts(t *testing.T, s *stage.Stage, i *island) {
	t.Helper()
	loopback := onLoopback(t, s)
	for f, base := range []string{"192.168.65.", "fdc4:f303:9324::"} {
		for host, want := range map[string][]string{"1": {"3128 connected"}, "3": nil, "7": {"53 connected"}, "254": loopback} {
			last := 65535
			if f == 1 && host != "3" {
				last = 16384
			}
			t.Run(base+host, func(t *testing.T) {
				r := s.Exec(t, i.client, "scan", base+host, "-last", strconv.Itoa(last))
				if r.Outcome != testimage.OK || r.Bytes != int64(last) || !slices.Equal(r.Answers, want) {
					t.Errorf("%s after %d ports, open %v, want %v", r.Outcome, r.Bytes, r.Answers, want)
				}
			})
		}
	}
}

// onLoopback is what a scan of host.docker.internal finds: the TCP ports that
// the host serves on either loopback address.
func onLoopback(t *testing.T, s *stage.Stage) []string {
	t.Helper()
	sockets, err := s.Lab.Host.Sockets()
	if err != nil {
		t.Fatal(err)
	}
	var ports []uint16
	for _, socket := range sockets {
		if addr := socket.Local.Addr(); socket.Listening && socket.Proto == portolan.TCP && (addr.IsLoopback() || addr.IsUnspecified()) {
			if socket.Local.String() != hostNamesAddr { // Portolan's own, refused to containers
				ports = append(ports, socket.Local.Port())
			}
		}
	}
	slices.Sort(ports)
	var lines []string
	for _, port := range slices.Compact(ports) {
		lines = append(lines, fmt.Sprintf("%d connected", port))
	}
	if len(lines) == 0 {
		t.Fatal("the host's loopback serves nothing")
	}
	return lines
}
