package e2e

import (
	"bufio"
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/portolan-net/portolan/internal/api"
	"github.com/portolan-net/portolan/internal/lab"
	"github.com/portolan-net/portolan/internal/settings"
	"github.com/portolan-net/portolan/internal/stage"
	"github.com/portolan-net/portolan/internal/testimage"
)

// datagramSizes go from the smallest to the largest that UDP over IPv4 carries;
// the lab's links have an MTU of 1500.
func datagramSizes() []int { return []int{1, 1400, 9000, 65507} }

// Datagrams cross whole and as they are, both ways.
func TestUDP(t *testing.T) {
	s := stage.Up(t)
	s.Docker(t, "network", "create", "mine")
	t.Cleanup(func() { s.Docker(t, "network", "rm", "mine") })
	neighbour, host := onNode(t, s, s.Lab.Neighbour), onNode(t, s, s.Lab.Host)
	for i, network := range []string{"bridge", "mine"} {
		t.Run(network, func(t *testing.T) {
			from := inContainer(t, s, "client-"+network, "--network", network)
			for _, f := range families() {
				t.Run(f.name, func(t *testing.T) { checkDatagrams(t, s, f, from) })
			}
			t.Run("host.docker.internal", func(t *testing.T) { checkHostDatagrams(t, s, from, 5400+uint16(10*i)) })
			t.Run("published", func(t *testing.T) { checkPublishedUDP(t, s, network, 5300+uint16(i), neighbour, host) })
		})
	}
	t.Run("offload", func(t *testing.T) {
		checkTrains(t, s, neighbour, host)
		from := inContainer(t, s, "client-offload", "--network", "mine")
		for _, f := range families() {
			t.Run(f.name, func(t *testing.T) { checkDatagrams(t, s, f, from) })
		}
		t.Run("host.docker.internal", func(t *testing.T) { checkHostDatagrams(t, s, from, 5420) })
		t.Run("published", func(t *testing.T) { checkPublishedUDP(t, s, "mine", 5302, neighbour, host) })
	})
}

// checkTrains sends datagrams that are one message where nothing on the way takes
// them apart: the daemon does, until the setting is on. It stays on.
func checkTrains(t *testing.T, s *stage.Stage, neighbour, host place) {
	t.Helper()
	const port = 5303
	s.Serve(t, "trains", []string{"-p", fmt.Sprintf("%d:7/udp", port)}, "echo-udp", "-mode", "train")
	from := inContainer(t, s, "trains-client")
	check := func(messages int64) {
		t.Helper()
		for _, f := range families() {
			for _, way := range []struct {
				from place
				to   string
			}{
				{from, hostPort(f.web, port)},
				{neighbour, hostPort(f.host, port)},
				{host, hostPort([]string{"127.0.0.1", "::1"}[f.index], port)},
			} {
				if got := way.from.run(t, "udp-train "+way.to); got.Outcome != testimage.OK || got.Count != messages {
					t.Errorf("train to %s: %+v, want it in %d messages", way.to, got, messages)
				}
			}
		}
	}
	for _, f := range families() {
		serveTrains(t, s, hostPort(f.web, port))
	}
	check(41)
	// A loopback that takes less than a datagram of the test.
	setLoopback(t, s, "1300")
	s.Portolan(t, "settings", "set", settings.KeyUDPOffload, "true")
	if status := s.Status(t); status.State != api.Degraded || !strings.Contains(strings.Join(status.Problems, ","), settings.KeyUDPOffload+" has no effect") {
		t.Errorf("status after a test that fails: %s: %s", status.State, status.Problems)
	}
	setLoopback(t, s, "65536")
	check(41)
	s.Portolan(t, "settings", "unset", settings.KeyUDPOffload)
	s.Portolan(t, "settings", "set", settings.KeyUDPOffload, "true")
	check(1)
	if status := s.Status(t); status.State != api.Running {
		t.Errorf("status: %s: %s", status.State, status.Problems)
	}
	// Larger than what the machine's usual networks and the LAN carry in one piece.
	s.Docker(t, "network", "create", "--opt", "com.docker.network.driver.mtu=9000", "large")
	t.Cleanup(func() { s.Docker(t, "network", "rm", "large") })
	large := inContainer(t, s, "trains-large", "--network", "large")
	for _, f := range families() {
		for _, way := range []struct {
			from place
			to   string
		}{
			{large, hostPort(f.web, port)},
			{host, hostPort([]string{"127.0.0.1", "::1"}[f.index], port)},
		} {
			if got := way.from.run(t, "udp-train "+way.to+" -size 8000 -count 5"); got.Outcome != testimage.OK {
				t.Errorf("train of large datagrams to %s: %+v", way.to, got)
			}
		}
	}
}

// setLoopback sets the MTU of the host's loopback.
func setLoopback(t *testing.T, s *stage.Stage, mtu string) {
	t.Helper()
	if out, err := s.Lab.Host.Command(t.Context(), "ip", "link", "set", "lo", "mtu", mtu).CombinedOutput(); err != nil {
		t.Fatalf("set the MTU of loopback: %v: %s", err, out)
	}
}

// serveTrains sends trains back, on the internet.
func serveTrains(t *testing.T, s *stage.Stage, addr string) {
	t.Helper()
	server := s.Lab.Internet.Command(t.Context(), onNode(t, s, s.Lab.Internet).toolbox, "echo-udp", "-mode", "train", "-addr", addr)
	said, err := server.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := server.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = server.Wait() }) // t's context is done by then
	if line, err := bufio.NewReader(said).ReadString('\n'); !strings.Contains(line, string(testimage.Listening)) {
		t.Fatalf("server of trains on %s: %q, %v", addr, line, err)
	}
}

// checkDatagrams sends to the internet. The toolbox's sockets are connected, so
// an answer counts only if it comes from the address that was asked.
func checkDatagrams(t *testing.T, s *stage.Stage, f family, from place) {
	t.Helper()
	echo := s.Internet.UDPEcho[f.index]
	echo.Forget()
	var commands []string
	for _, size := range datagramSizes() {
		commands = append(commands, fmt.Sprintf("udp-send %s -size %d", hostPort(f.web, 7), size))
	}
	for i, got := range from.each(t, commands) {
		if got.Outcome != testimage.OK || got.Bytes != int64(datagramSizes()[i]) {
			t.Errorf("%s: %+v", commands[i], got)
		}
	}
	clients := echo.Clients()
	if len(clients) != len(commands) {
		t.Errorf("the server saw %d datagrams, want %d", len(clients), len(commands))
	}
	for _, client := range clients {
		if client.Addr().String() != f.host {
			t.Errorf("the server saw %s, want the host %s", client, f.host)
		}
	}
	name := []string{lab.DNSV4, lab.DNSV6}[f.index]
	if got := from.run(t, "lookup web.internet.test AAAA -server "+name); strings.Join(got.Answers, ",") != "AAAA "+lab.WebV6 {
		t.Errorf("DNS at %s: %+v", name, got)
	}
	// ICMP port unreachable, which only a connected socket hears of.
	empty := []string{lab.EmptyV4, lab.EmptyV6}[f.index]
	for _, size := range []int{1, 9000} {
		command := fmt.Sprintf("dial udp %s -send %d", hostPort(empty, closedPort), size)
		if got := from.run(t, command); got.Outcome != testimage.Refused || got.Duration() >= promptly {
			t.Errorf("%s: %+v, want refused", command, got)
		}
	}
}

// checkHostDatagrams sends to servers on the host's loopback; port is served on
// 127.0.0.1, the one after it on ::1.
func checkHostDatagrams(t *testing.T, s *stage.Stage, from place, port uint16) {
	t.Helper()
	s.Lab.StartUDPEcho(t, s.Lab.Host, fmt.Sprintf("127.0.0.1:%d", port))
	s.Lab.StartUDPEcho(t, s.Lab.Host, fmt.Sprintf("[::1]:%d", port+1))
	var commands []string
	for _, host := range []string{"192.168.65.254", "fdc4:f303:9324::254"} {
		for _, server := range []uint16{port, port + 1} {
			// A long first datagram to ::1 alone is refused: see package egress.
			commands = append(commands, fmt.Sprintf("udp-send %s -size 1", hostPort(host, server)))
			for _, size := range datagramSizes() {
				commands = append(commands, fmt.Sprintf("udp-send %s -size %d", hostPort(host, server), size))
			}
		}
	}
	for i, got := range from.each(t, commands) {
		if got.Outcome != testimage.OK {
			t.Errorf("%s: %+v", commands[i], got)
		}
	}
}

// checkPublishedUDP sends to a published port from the LAN and from the host.
func checkPublishedUDP(t *testing.T, s *stage.Stage, network string, port uint16, neighbour, host place) {
	t.Helper()
	name := "server-" + network
	s.Serve(t, name, []string{"--network", network, "-p", fmt.Sprintf("%d:7/udp", port)}, "echo-udp")
	send := func(from place, addr string) {
		var commands []string
		for _, size := range datagramSizes() {
			commands = append(commands, fmt.Sprintf("udp-send %s -size %d", hostPort(addr, port), size))
		}
		for i, got := range from.each(t, commands) {
			if got.Outcome != testimage.OK {
				t.Errorf("%s: %+v", commands[i], got)
			}
		}
	}
	for _, f := range families() {
		send(neighbour, f.host)
		send(host, []string{"127.0.0.1", "::1"}[f.index])
	}
	seen := map[string]bool{}
	for line := range strings.Lines(s.Docker(t, "logs", name)) {
		r, err := testimage.Parse([]byte(line))
		if err != nil {
			t.Fatal(err)
		}
		if r.Outcome == testimage.Listening {
			continue
		}
		client, err := netip.ParseAddrPort(r.Remote)
		if err != nil {
			t.Fatal(err)
		}
		seen[client.Addr().String()] = true
	}
	for _, want := range []string{lab.NeighbourV4, lab.NeighbourV6, "192.168.65.254", "fdc4:f303:9324::254"} {
		if !seen[want] {
			t.Errorf("the container did not see %s", want)
		}
		delete(seen, want)
	}
	for other := range seen {
		t.Errorf("the container saw %s, want the clients' own addresses", other)
	}
}
