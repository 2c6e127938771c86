package e2e

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/portolan-net/portolan/internal/lab"
	"github.com/portolan-net/portolan/internal/portolan"
	"github.com/portolan-net/portolan/internal/stage"
	"github.com/portolan-net/portolan/internal/testimage"
)

// What is published is reached where -p says, by whom it says, and nothing else
// of the machine is.
func TestPublish(t *testing.T) {
	s := stage.Up(t)
	for _, part := range []struct {
		name  string
		check func(*testing.T, *stage.Stage)
	}{
		{"clients are seen with their own addresses", checkClients},
		{"containers with one family", checkOneFamily},
		{"only what -p says is reachable", checkAddresses},
		{"nothing of the machine is reachable", checkNothingElse},
		{"published ports answer inside the machine", checkInside},
		{"the same port on two addresses", checkTwoAddresses},
		{"-P with several exposed ports", checkPublishAll},
		{"a range of ports", checkRange},
		{"UDP with several clients", checkManyClients},
		{"half-close and reset", checkEnds},
		{"a taken port", checkTaken},
		{"rm -f frees at once", checkFreed},
		{"twenty quick restarts", checkRestarts},
		{"dockerd is killed", checkEngineKilled},
	} {
		ok := t.Run(part.name, func(t *testing.T) {
			part.check(t, s)
		})
		if got := published(t, s); ok && len(got) != 0 {
			t.Errorf("%s: the daemon still listens on %q", part.name, got)
		}
	}
}

// firstEphemeral is where Linux's own choice of ports begins
// (net.ipv4.ip_local_port_range).
const firstEphemeral = 32768

// published lists what the daemon listens on for containers, as "tcp 0.0.0.0:80", sorted. UDP
// sockets with a port of the kernel's choice are containers' ways out.
func published(t *testing.T, s *stage.Stage) []string {
	t.Helper()
	sockets, err := s.Lab.Host.SocketsOf(s.Status(t).Daemon.PID)
	if err != nil {
		t.Fatal(err)
	}
	var list []string
	for _, socket := range sockets {
		if socket.Local.String() == hostNamesAddr {
			continue // the names of containers, for the host alone
		}
		if socket.Listening || socket.Proto == portolan.UDP && !socket.Remote.IsValid() && socket.Local.Port() < firstEphemeral {
			list = append(list, fmt.Sprintf("%s %s", socket.Proto, socket.Local))
		}
	}
	slices.Sort(list)
	return list
}

// answers checks that the web server of the container name answers.
func answers(t *testing.T, node *lab.Node, name string, addrs ...string) {
	t.Helper()
	for _, addr := range addrs {
		if got, err := stage.Fetch(t, node, addr, "/"); err != nil || !strings.Contains(got, `"name":"`+name+`"`) {
			t.Errorf("http://%s/ from the %s: %q (%v), want %s", addr, node.Name, got, err, name)
		}
	}
}

// refuses checks that nothing listens there.
func refuses(t *testing.T, node *lab.Node, addrs ...string) {
	t.Helper()
	for _, addr := range addrs {
		conn, err := node.Dial(t.Context(), "tcp", addr)
		if err == nil {
			conn.Close()
		}
		if !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("connect to %s from the %s: %v, want it refused", addr, node.Name, err)
		}
	}
}

// route makes the neighbour send a network's packets to the host.
func route(t *testing.T, s *stage.Stage, network, via string) {
	t.Helper()
	s.Lab.Neighbour.Run(t, "ip", "route", "replace", network, "via", via)
	t.Cleanup(func() {
		// The test's context has ended by now.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), time.Minute)
		defer cancel()
		if out, err := s.Lab.Neighbour.Command(ctx, "ip", "route", "del", network, "via", via).CombinedOutput(); err != nil {
			t.Errorf("remove the neighbour's route to %s: %v: %s", network, err, out)
		}
	})
}

func checkClients(t *testing.T, s *stage.Stage) {
	s.Docker(t, "network", "create", "mine")
	t.Cleanup(func() { s.Docker(t, "network", "rm", "mine") })
	s.Docker(t, "run", "-d", "--name", "other", testimage.Name, "sleep", "1h")
	t.Cleanup(func() { s.Docker(t, "rm", "-f", "other") })
	for i, network := range []string{"bridge", "mine"} {
		port := uint16(8080 + i)
		s.Serve(t, "web-"+network, []string{"--network", network, "-p", fmt.Sprintf("%d:80", port)}, "web")
		s.Serve(t, "udp-"+network, []string{"--network", network, "-p", fmt.Sprintf("%d:7/udp", port)}, "echo-udp", "-mode", "whoami")
		for _, f := range []struct{ neighbour, hostSeen, lan, loopback, alias string }{
			{lab.NeighbourV4, "192.168.65.254", lab.HostV4, "127.0.0.1", lab.HostAliasV4},
			{lab.NeighbourV6, "fdc4:f303:9324::254", lab.HostV6, "::1", lab.HostAliasV6},
		} {
			sees(t, s.Lab.Neighbour, hostPort(f.lan, port), f.neighbour)
			for _, addr := range []string{f.loopback, f.lan, f.alias} {
				sees(t, s.Lab.Host, hostPort(addr, port), f.hostSeen)
			}
			for _, addr := range []string{f.hostSeen, f.lan} {
				seesOther(t, s, addr, port)
			}
		}
	}
}

// checkOneFamily publishes containers that have no address of the client's family.
func checkOneFamily(t *testing.T, s *stage.Stage) {
	s.Docker(t, "network", "create", "--ipv6=false", "only4")
	s.Docker(t, "network", "create", "--ipv4=false", "--ipv6", "only6")
	t.Cleanup(func() { s.Docker(t, "network", "rm", "only4", "only6") })
	s.Serve(t, "four", []string{"--network", "only4", "-p", "8080:80"}, "web", "-name", "four")
	answers(t, s.Lab.Host, "four", "127.0.0.1:8080", "[::1]:8080")
	answers(t, s.Lab.Neighbour, "four", hostPort(lab.HostV4, 8080), hostPort(lab.HostV6, 8080))
	sees4 := map[string]string{lab.HostV4: lab.NeighbourV4, lab.HostV6: "192.168.65.254"}
	for addr, want := range sees4 {
		if got, err := stage.Fetch(t, s.Lab.Neighbour, hostPort(addr, 8080), "/ip"); err != nil || got != want {
			t.Errorf("at %s: the container sees %q (%v), want %s", addr, got, err, want)
		}
	}
	s.Serve(t, "six", []string{"--network", "only6", "-p", "[::]:8081:80"}, "web", "-name", "six")
	answers(t, s.Lab.Host, "six", "[::1]:8081")
	answers(t, s.Lab.Neighbour, "six", hostPort(lab.HostV6, 8081))
}

// sees checks which address a web server and a UDP server see of a node.
func sees(t *testing.T, node *lab.Node, addr, want string) {
	t.Helper()
	if got, err := stage.Fetch(t, node, addr, "/ip"); err != nil || got != want {
		t.Errorf("TCP from the %s to %s: the container sees %q (%v), want %s", node.Name, addr, got, err, want)
	}
	got, err := stage.Ask(t, node, addr, "who am I")
	if client, _ := netip.ParseAddrPort(got); err != nil || client.Addr().String() != want {
		t.Errorf("UDP from the %s to %s: the container sees %q (%v), want %s", node.Name, addr, got, err, want)
	}
}

// seesOther is sees for a container that comes by way of the host: by
// host.docker.internal, it may be of the other family there.
func seesOther(t *testing.T, s *stage.Stage, addr string, port uint16) {
	t.Helper()
	isHost := func(text string) bool {
		client, err := netip.ParseAddr(text)
		host := s.Status(t).Link.Host()
		return err == nil && (client == host.V4 || client == host.V6)
	}
	if got := s.Exec(t, "other", "get", "http://"+hostPort(addr, port)+"/ip"); !isHost(strings.TrimSpace(got.Body)) {
		t.Errorf("TCP from another container to %s: the container sees %+v, want host.docker.internal", addr, got)
	}
	got := s.Exec(t, "other", "dial", "udp", hostPort(addr, port), "-send", "8")
	if client, err := netip.ParseAddrPort(strings.TrimSpace(got.Body)); err != nil || !isHost(client.Addr().String()) {
		t.Errorf("UDP from another container to %s: the container sees %+v, want host.docker.internal", addr, got)
	}
}

// checkAddresses publishes one server in all the ways that -p knows.
func checkAddresses(t *testing.T, s *stage.Stage) {
	route(t, s, lab.HostAliasV4+"/32", lab.HostV4)
	route(t, s, lab.HostAliasV6+"/128", lab.HostV6)
	everywhere := []string{"127.0.0.1", "::1", lab.HostV4, lab.HostV6, lab.HostAliasV4, lab.HostAliasV6}
	forms := []struct {
		flag  string
		port  uint16
		where []string
	}{
		{"8080:80", 8080, everywhere},
		{"0.0.0.0:8081:80", 8081, []string{"127.0.0.1", lab.HostV4, lab.HostAliasV4}},
		{"[::]:8082:80", 8082, []string{"::1", lab.HostV6, lab.HostAliasV6}},
		{"127.0.0.1:8083:80", 8083, []string{"127.0.0.1"}},
		{"[::1]:8084:80", 8084, []string{"::1"}},
		{lab.HostV4 + ":8085:80", 8085, []string{lab.HostV4}},
		{"[" + lab.HostV6 + "]:8086:80", 8086, []string{lab.HostV6}},
		{lab.HostAliasV4 + ":8087:80", 8087, []string{lab.HostAliasV4}},
		{"[" + lab.HostAliasV6 + "]:8088:80", 8088, []string{lab.HostAliasV6}},
	}
	var flags []string
	for _, form := range forms {
		flags = append(flags, "-p", form.flag)
	}
	s.Serve(t, "web", flags, "web", "-name", "web")
	for _, form := range forms {
		for _, ip := range everywhere {
			addr := hostPort(ip, form.port)
			check := refuses
			if slices.Contains(form.where, ip) {
				check = func(t *testing.T, node *lab.Node, addrs ...string) {
					t.Helper()
					answers(t, node, "web", addrs...)
				}
			}
			check(t, s.Lab.Host, addr)
			if !netip.MustParseAddr(ip).IsLoopback() {
				check(t, s.Lab.Neighbour, addr)
			}
		}
	}
	refuses(t, s.Lab.Neighbour, hostPort(lab.HostV4, 80), hostPort(lab.HostV6, 80)) // the container's own port
}

// checkNothingElse lets the neighbour send to the machine's networks by way of
// the host, on purpose.
func checkNothingElse(t *testing.T, s *stage.Stage) {
	s.Serve(t, "web", []string{"-p", "127.0.0.1:8080:80"}, "web")
	s.Serve(t, "echo", []string{"-p", "127.0.0.1:7000:7/udp", "-p", "[::1]:7000:7/udp"}, "echo-udp")
	if got := published(t, s); !slices.Equal(got, []string{"tcp 127.0.0.1:8080", "udp 127.0.0.1:7000", "udp [::1]:7000"}) {
		t.Errorf("the daemon listens on %q, want what is published", got)
	}
	for _, addr := range []string{hostPort(lab.HostV4, 7000), hostPort(lab.HostV6, 7000)} {
		if got, err := stage.Ask(t, s.Lab.Neighbour, addr, "x"); !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("UDP to %s: %q (%v), want it refused", addr, got, err)
		}
	}
	container := s.Docker(t, "inspect", "-f", "{{.NetworkSettings.Networks.bridge.IPAddress}}", "web")
	container6 := s.Docker(t, "inspect", "-f", "{{.NetworkSettings.Networks.bridge.GlobalIPv6Address}}", "web")
	route(t, s, "192.168.65.0/24", lab.HostV4)
	route(t, s, container+"/32", lab.HostV4)
	route(t, s, "fdc4:f303:9324::/64", lab.HostV6)
	route(t, s, container6+"/128", lab.HostV6)

	neighbour := onNode(t, s, s.Lab.Neighbour)
	var dials []string
	for _, target := range []struct {
		ip    string
		ports []uint16
	}{
		{container, []uint16{80}},
		{container6, []uint16{80}},
		{"192.168.65.1", []uint16{53, 80}},
		{"192.168.65.3", []uint16{80, 2375, 2376, 8080}},
		{"192.168.65.7", []uint16{53}},
		{"192.168.65.254", []uint16{8080}},
		{"fdc4:f303:9324::3", []uint16{80, 2375, 2376, 8080}},
		{"fdc4:f303:9324::7", []uint16{53}},
		{"fdc4:f303:9324::254", []uint16{8080}},
	} {
		for _, port := range target.ports {
			dials = append(dials, "dial tcp "+hostPort(target.ip, port)+" -timeout 2s")
		}
	}
	dials = append(dials,
		"lookup web.internet.test A -server 192.168.65.7 -timeout 2s",
		"lookup web.internet.test A -server fdc4:f303:9324::7 -timeout 2s",
		"ping 192.168.65.3 -timeout 2s", "ping fdc4:f303:9324::3 -timeout 2s")
	for i, got := range neighbour.together(t, dials) {
		if got.Outcome == testimage.OK || got.Outcome == testimage.Connected {
			t.Errorf("the neighbour's %q: %s", dials[i], got.Outcome)
		}
	}
	refuses(t, s.Lab.Neighbour, hostPort(lab.HostV4, 2375), hostPort(lab.HostV4, 2376), hostPort(lab.HostV4, 8080), hostPort(lab.HostV6, 8080))
}

// checkInside dials published ports at localhost from the machine's own network.
func checkInside(t *testing.T, s *stage.Stage) {
	s.Serve(t, "registry", []string{"-p", "5000:80"}, "web", "-name", "registry")
	s.Serve(t, "private", []string{"-p", "127.0.0.1:5001:80"}, "web", "-name", "private")
	s.Serve(t, "echo", []string{"-p", "5002:7/udp"}, "echo-udp")
	inMachine := inContainer(t, s, "inside", "--network", "host")
	for url, want := range map[string]string{
		"http://localhost:5000/": "registry", "http://127.0.0.1:5000/": "registry", "http://[::1]:5000/": "registry",
		"http://192.168.65.3:5000/": "registry", "http://localhost:5001/": "private",
	} {
		if got := inMachine.run(t, "get "+url); !strings.Contains(got.Body, `"name":"`+want+`"`) {
			t.Errorf("get %s: %+v, want %s", url, got, want)
		}
	}
	for _, addr := range []string{"127.0.0.1:5002", "[::1]:5002"} {
		if got := inMachine.run(t, "udp-send "+addr+" -size 1400"); got.Outcome != testimage.OK {
			t.Errorf("UDP echo at %s: %+v", addr, got)
		}
	}
}

func checkTwoAddresses(t *testing.T, s *stage.Stage) {
	s.Serve(t, "one", []string{"-p", "127.0.0.1:8080:80"}, "web", "-name", "one")
	s.Serve(t, "two", []string{"-p", lab.HostV4 + ":8080:80", "-p", "[::1]:8080:80"}, "web", "-name", "two")
	answers(t, s.Lab.Host, "one", "127.0.0.1:8080")
	answers(t, s.Lab.Host, "two", hostPort(lab.HostV4, 8080), "[::1]:8080")
	answers(t, s.Lab.Neighbour, "two", hostPort(lab.HostV4, 8080))
}

func checkPublishAll(t *testing.T, s *stage.Stage) {
	s.Serve(t, "web", []string{"-P", "--expose", "7001-7004", "--expose", "7005/udp"}, "web", "-name", "web")
	s.Docker(t, "exec", "-d", "web", "/bin/toolbox", "web", "-addr", ":7004", "-name", "web")
	s.Docker(t, "exec", "-d", "web", "/bin/toolbox", "echo-udp", "-addr", ":7005")
	seen := map[string]bool{}
	for _, port := range []string{"80/tcp", "7001/tcp", "7002/tcp", "7003/tcp", "7004/tcp", "7005/udp"} {
		line, _, _ := strings.Cut(s.Docker(t, "port", "web", port), "\n")
		addr, err := netip.ParseAddrPort(line)
		proto := port[len(port)-len("tcp"):]
		if err != nil || seen[proto+line] {
			t.Fatalf("%s is published at %q (%v), want an address of its own", port, line, err)
		}
		seen[proto+line] = true
		local := hostPort("127.0.0.1", addr.Port())
		switch port {
		case "80/tcp", "7004/tcp":
			stage.Eventually(t, serveLimit, port+" answers", func() bool {
				_, err := stage.Fetch(t, s.Lab.Host, local, "/")
				return err == nil
			})
		case "7005/udp":
			stage.Eventually(t, serveLimit, port+" answers", func() bool {
				_, err := stage.Ask(t, s.Lab.Host, local, "x")
				return err == nil
			})
		default:
			if _, err := s.Lab.Host.SocketOwners(portolan.TCP, addr, netip.AddrPort{}); err != nil {
				t.Errorf("%s: %v", port, err)
			}
		}
	}
}

func checkRange(t *testing.T, s *stage.Stage) {
	s.Serve(t, "web", []string{"-p", "9000-9009:9000-9009"}, "web", "-addr", ":9000", "-name", "web")
	for port := 9001; port < 9010; port++ {
		s.Docker(t, "exec", "-d", "web", "/bin/toolbox", "web", "-addr", fmt.Sprintf(":%d", port), "-name", fmt.Sprint(port))
	}
	var clients sync.WaitGroup
	for port := 9001; port < 9010; port++ {
		clients.Go(func() {
			for _, ip := range []string{"127.0.0.1", "::1"} {
				answersSoon(t, s.Lab.Host, fmt.Sprint(port), hostPort(ip, uint16(port)))
			}
		})
	}
	clients.Wait()
	answers(t, s.Lab.Neighbour, "web", hostPort(lab.HostV4, 9000), hostPort(lab.HostV6, 9000))
}
