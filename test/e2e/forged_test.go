package e2e

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/portolan-net/portolan/internal/lab"
	"github.com/portolan-net/portolan/internal/stage"
	"github.com/portolan-net/portolan/internal/testimage"
)

// forgedSources are addresses that a container of an island must not be able to
// speak with, in the order of families.
func forgedSources(other *island) [][2]string {
	return [][2]string{
		{"203.0.113.9", "2001:db8:9::9"},           // nobody's
		{lab.HostV4, lab.HostV6},                   // the host's
		other.clientAddr,                           // on another network
		{"192.168.65.254", "fdc4:f303:9324::254"},  // the host as containers know it
		{"192.168.65.1", "fdc4:f303:9324::1"},      // the gateway
		{"192.168.65.3", "fdc4:f303:9324::3"},      // the machine
		{"127.0.0.1", "::1"},                       // loopback
		{other.gateway[0], other.gateway[1]},       // the machine on another network
		{"192.168.65.130", "fdc4:f303:9324::8130"}, // on the machine's link
		{"224.0.0.9", "ff02::9"},                   // nobody's ever
	}
}

// checkForgedByBridge sends datagrams with foreign sources from one island's
// client. None leaves the machine, none reaches another network.
func checkForgedByBridge(t *testing.T, s *stage.Stage, from, other *island) {
	t.Helper()
	eth0 := startCapture(t, s.Status(t).Machine.PID, "eth0")
	var commands []string
	for f, fam := range families() {
		for _, source := range forgedSources(other) {
			for _, to := range []string{hostPort(fam.web, 7), hostPort(other.udpAddr[f], 7), hostPort(hostAlias(fam), 8107)} {
				commands = append(commands, fmt.Sprintf("forge-udp -src %s -dst %s -payload forged-by-bridge", source[f], to))
			}
		}
	}
	for i, r := range within(s, from.client).together(t, commands) {
		// The container's own kernel may refuse to send some.
		if r.Outcome != testimage.OK && !strings.Contains(r.Error, "send datagram") {
			t.Errorf("%s: %+v", commands[i], r)
		}
	}
	for f, fam := range families() {
		fence := "honest-" + fam.name
		s.Exec(t, from.client, "forge-udp", "-src", from.clientAddr[f], "-dst", hostPort(fam.web, 7), "-payload", fence)
		eth0.await(t, fence)
	}
	if in, out := eth0.count("forged-by-bridge"); in+out != 0 {
		t.Errorf("of %d forged datagrams %d left the machine", len(commands), in+out)
	}
	checkUDPClients(t, s, []*island{from, other})
}

// hostAlias is host.docker.internal.
func hostAlias(f family) string {
	return map[string]string{"IPv4": "192.168.65.254", "IPv6": "fdc4:f303:9324::254"}[f.name]
}

// checkForgedByMacvlan does the same from the machine's own link, where nothing
// but the router stands in the way: no server hears of it.
func checkForgedByMacvlan(t *testing.T, s *stage.Stage, other *island) {
	t.Helper()
	s.Docker(t, append(append([]string{"run", "-d", "--name", "forger"}, macvlan(t, s)...), testimage.Name, "sleep", "1h")...)
	t.Cleanup(func() { s.Docker(t, "rm", "-f", "forger") })
	onHost := s.Lab.StartUDPEcho(t, s.Lab.Host, "127.0.0.1:8107")
	for f, fam := range families() {
		// Addresses of the link that are nobody's are learned: those are honest.
		sources := slices.DeleteFunc(forgedSources(other), func(pair [2]string) bool { return pair[0] == "192.168.65.130" })
		s.Internet.UDPEcho[f].Forget()
		onHost.Forget()
		var commands []string
		for _, source := range sources {
			for _, to := range []string{hostPort(fam.web, 7), hostPort(other.udpAddr[f], 7), hostPort(hostAlias(fam), 8107)} {
				commands = append(commands, fmt.Sprintf("forge-udp -src %s -dst %s -payload forged-by-macvlan", source[f], to))
			}
		}
		for i, r := range within(s, "forger").together(t, commands) {
			if r.Outcome != testimage.OK && !strings.Contains(r.Error, "send datagram") {
				t.Errorf("%s: %+v", commands[i], r)
			}
		}
		// The router takes datagrams in order: after this answer all others have been decided about.
		for server, to := range map[*lab.Server]string{s.Internet.UDPEcho[f]: hostPort(fam.web, 7), onHost: hostPort(hostAlias(fam), 8107)} {
			if r := s.Exec(t, "forger", "udp-send", to); r.Outcome != testimage.OK {
				t.Errorf("honest datagram to %s: %+v", to, r)
			}
			if clients := server.Clients(); len(clients) != 1 {
				t.Errorf("%s, %s heard from %v, want the one honest client", fam.name, to, clients)
			}
		}
	}
	checkUDPClients(t, s, []*island{other})
}

// macvlan makes a network on the machine's link and returns the flags to be on it.
func macvlan(t *testing.T, s *stage.Stage) []string {
	t.Helper()
	s.Docker(t, "network", "create", "-d", "macvlan", "-o", "parent=eth0", "--ipv6",
		"--subnet", "192.168.65.0/24", "--ip-range", "192.168.65.128/25", "--gateway", "192.168.65.1",
		"--subnet", "fdc4:f303:9324::/64", "--gateway", "fdc4:f303:9324::1", "lan")
	t.Cleanup(func() { s.Docker(t, "network", "rm", "lan") })
	return []string{"--network", "lan", "--ip6", "fdc4:f303:9324::8000"}
}

// A container on the machine's link lies about who has which address, about the
// router and about DHCP. Neither machine nor router changes its mind.
func checkLinkLies(t *testing.T, s *stage.Stage, bystander *island) {
	t.Helper()
	status := s.Status(t)
	before := map[string]string{}
	look := func(pid int) string {
		out := ""
		for _, what := range []string{"-4 neigh show nud permanent", "-6 neigh show nud permanent", "-4 route", "-6 route", "-4 addr", "-6 addr"} {
			out += s.Lab.Host.Run(t, "nsenter", append([]string{"-t", fmt.Sprint(pid), "-n", "ip"}, strings.Fields(what)...)...)
		}
		return out
	}
	flags := macvlan(t, s)
	places := map[string]int{"machine": status.Machine.PID, "router": status.Helper.PID}
	for name, pid := range places {
		before[name] = look(pid)
	}
	for _, addr := range []string{"192.168.65.1", "192.168.65.7", "192.168.65.254", "fdc4:f303:9324::1", "fdc4:f303:9324::7", "fdc4:f303:9324::254"} {
		if !strings.Contains(before["machine"], addr+" dev eth0 lladdr") {
			t.Errorf("the machine has no permanent neighbour %s:\n%s", addr, before["machine"])
		}
	}
	for _, addr := range []string{"192.168.65.3", "fdc4:f303:9324::3"} {
		if !strings.Contains(before["router"], addr+" dev e0 lladdr") {
			t.Errorf("the router has no permanent neighbour %s:\n%s", addr, before["router"])
		}
	}
	claims := strings.Join([]string{
		"192.168.65.1", "192.168.65.3", "192.168.65.7", "192.168.65.254",
		"fdc4:f303:9324::1", "fdc4:f303:9324::3", "fdc4:f303:9324::7", "fdc4:f303:9324::254",
	}, ",")
	if r := s.Toolbox(t, flags, "forge-link", "-claim", claims); r.Outcome != testimage.OK {
		t.Fatalf("forge: %+v", r)
	}
	for name, pid := range places {
		if diff := lab.Diff(before[name], look(pid)); len(diff) != 0 {
			t.Errorf("the %s believes lies:\n%s", name, strings.Join(diff, "\n"))
		}
	}
	for _, fam := range families() {
		if r := s.Exec(t, bystander.client, "udp-send", hostPort(fam.web, 7)); r.Outcome != testimage.OK {
			t.Errorf("after the lies, %s: %+v", fam.name, r)
		}
	}
}

// The same lies are believed where nobody is careful, so they are well made: by
// the neighbour on the LAN, about its gateway.
func checkLiesAreGood(t *testing.T, s *stage.Stage) {
	t.Helper()
	liar, victim := filepath.Join(s.Lab.Dir, "liar"), s.Lab.Neighbour
	if err := testimage.Build(t.Context(), liar); err != nil {
		t.Fatal(err)
	}
	victim.Run(t, "sysctl", "-q", "-w", "net.ipv6.conf.lan0.accept_ra=1")
	for _, fam := range families() { // a lie is heard about an address that is in use
		conn, err := victim.Dial(t.Context(), "tcp", hostPort(fam.web, 80))
		if err != nil {
			t.Fatal(err)
		}
		_ = conn.Close()
	}
	mac := strings.Fields(s.Lab.Host.Run(t, "ip", "-o", "-0", "addr", "show", "dev", "lan0"))
	liarMAC := mac[slices.Index(mac, "link/ether")+1]
	stage.Eventually(t, 10*time.Second, "the neighbour believes all lies", func() bool {
		s.Lab.Host.Run(t, liar, "forge-link", "-iface", "lan0", "-claim", lab.GatewayV4+","+lab.GatewayV6)
		neighbours := victim.Run(t, "ip", "neigh", "show", "dev", "lan0")
		return strings.Contains(neighbours, lab.GatewayV4+" lladdr "+liarMAC) &&
			strings.Contains(neighbours, lab.GatewayV6+" lladdr "+liarMAC) &&
			strings.Contains(victim.Run(t, "ip", "-6", "addr", "show", "dev", "lan0"), "2001:db8:bad:")
	})
}
