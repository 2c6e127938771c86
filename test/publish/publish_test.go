// Package publish_test holds what published ports promise beyond the basic forms
// of -p, which are in test/e2e and test/reference; docs/ports.md says what is
// shown where.
package publish_test

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/pires/go-proxyproto"

	"github.com/portolan-net/portolan/internal/api"
	"github.com/portolan-net/portolan/internal/lab"
	"github.com/portolan-net/portolan/internal/portolan"
	"github.com/portolan-net/portolan/internal/stage"
	"github.com/portolan-net/portolan/internal/testimage"
)

var (
	restarts = flag.Int("restarts", 5, "of the container with 20 ports; 200 take minutes, ten on a busy computer: give -timeout 20m")
	bindings = flag.Int("range", 100, "ports of the large range; 1000 takes a minute")
)

// limit is a deadline that only a hang reaches.
const limit = 20 * time.Second

func TestPublishing(t *testing.T) {
	s := stage.New(t)
	s.Lab.Host.Run(t, "sysctl", "-qw", "net.ipv4.ip_local_port_range=32768 60999")
	busy := listenInRow(t, s, 49000, 50)
	s.Portolan(t, "up")
	s.LoadImage(t)
	t.Run("random ports beside fifty busy ones", func(t *testing.T) { checkRandomBesideBusy(t, s, busy) })
	for _, part := range []struct {
		name  string
		check func(*testing.T, *stage.Stage)
	}{
		{"ports are listed", checkList},
		{"ports of a running container", checkAdd},
		{"added ports outlive the daemon", checkAddStays},
		{"a port of another profile", checkOtherProfile},
		{"the PROXY protocol", checkProxy},
		{"an address that comes back", checkAddress},
		{"what can not be published", checkRefused},
		{"every form of -p", checkForms},
		{"every form of compose's ports", checkCompose},
		{"compose's random ports", checkComposeRandom},
		{"what compose can not publish", checkComposeRefused},
		{"usual clients", checkClients},
		{"random ports", checkRandom},
		{"ports that the host has", checkBusy},
		{"datagrams of ten thousand clients", checkManyClients},
		{"restarts with twenty ports", checkRestarts},
		{"a large range", checkLargeRange},
	} {
		t.Run(part.name, func(t *testing.T) { part.check(t, s) })
		if left := ports(t, s); len(left) != 0 {
			t.Fatalf("%s: still published: %+v", part.name, left)
		}
	}
}

// ports is `portolan ports --json`.
func ports(t *testing.T, s *stage.Stage) []api.Port {
	t.Helper()
	var list []api.Port
	text := s.Portolan(t, "ports", "--json")
	if err := json.Unmarshal([]byte(text), &list); err != nil {
		t.Fatalf("portolan ports: %v\n%s", err, text)
	}
	return list
}

// at is the port on one address of the host, which must be there.
func at(t *testing.T, s *stage.Stage, addr string) api.Port {
	t.Helper()
	for _, p := range ports(t, s) {
		if p.Host.String() == addr {
			return p
		}
	}
	t.Fatalf("portolan ports does not list %s", addr)
	return api.Port{}
}

func checkList(t *testing.T, s *stage.Stage) {
	began := time.Now()
	s.Serve(t, "web", []string{"-p", "127.0.0.1:8080:80"}, "web", "-name", "web")
	s.Serve(t, "udp", []string{"-p", "127.0.0.1:7000:7/udp"}, "echo-udp")
	if got, err := stage.Fetch(t, s.Lab.Host, "127.0.0.1:8080", "/bytes/100000"); err != nil || len(got) == 0 {
		t.Fatalf("get: %v", err)
	}
	conn, err := s.Lab.Host.Dial(t.Context(), "tcp", "127.0.0.1:8080")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := stage.Ask(t, s.Lab.Host, "127.0.0.1:7000", "12345"); err != nil {
		t.Fatal(err)
	}
	var web api.Port
	stage.Eventually(t, limit, "both connections are counted", func() bool {
		web = at(t, s, "127.0.0.1:8080")
		return web.Connections == 2 && web.Open == 1 && web.Sent > 100_000
	})
	if web.Name != "web" || web.Proto != portolan.TCP || web.Container.Port() != 80 || web.Added ||
		web.Since.Before(began.Add(-time.Second)) || time.Since(web.Since) > time.Minute || web.Received == 0 || web.Sent > 110_000 {
		t.Errorf("the web server's port: %+v", web)
	}
	conn.Close()
	stage.Eventually(t, limit, "the connection ends", func() bool { return at(t, s, "127.0.0.1:8080").Open == 0 })
	udp := at(t, s, "127.0.0.1:7000")
	if udp.Name != "udp" || udp.Proto != portolan.UDP || udp.Traffic != (api.Traffic{Connections: 1, Open: 1, Received: 5, Sent: 5}) {
		t.Errorf("the echo's port: %+v", udp)
	}
	table := s.Portolan(t, "ports")
	for _, want := range []string{"ADDRESS", "127.0.0.1  8080  tcp", "web:80", "udp:7", "2 (0)", "5 B", "open"} {
		if !strings.Contains(table, want) {
			t.Errorf("portolan ports does not show %q:\n%s", want, table)
		}
	}
}

func checkAdd(t *testing.T, s *stage.Stage) {
	s.Serve(t, "web", []string{"-p", "8085:80"}, "web", "-name", "web")
	s.Docker(t, "run", "-d", "--name", "other", testimage.Name, "web", "-name", "other")
	t.Cleanup(func() { s.TryDocker(t, "rm", "-f", "other") })
	for _, c := range []struct {
		args string
		code int
		want []string
	}{
		{"add nobody 8080:80", 1, []string{"no such container: nobody"}},
		{"add other 8085:80", 1, []string{"0.0.0.0:8085/tcp", "address already in use: published already by container web (172.17."}},
		{"add other 192.0.2.99:8080:80", 1, []string{"no address of the host"}},
		{"add other 8080", 2, []string{"HOSTPORT:CONTAINERPORT"}},
		{"add other 8080:80/sctp", 2, []string{"only tcp and udp"}},
		{"add other", 2, []string{"container and a port"}},
		{"rm other 8080", 1, []string{"was not added"}},
		{"rm web 8085", 1, []string{"was not added"}},
	} {
		out, code := s.TryPortolan(t, append([]string{"ports"}, strings.Fields(c.args)...)...)
		if code != c.code {
			t.Errorf("portolan ports %s: exit code %d, want %d", c.args, code, c.code)
		}
		for _, want := range c.want {
			if !strings.Contains(out, want) {
				t.Errorf("portolan ports %s: %q, want %q", c.args, out, want)
			}
		}
	}
	answers := func(want string, addrs ...string) {
		t.Helper()
		for _, addr := range addrs {
			stage.Eventually(t, limit, want+" answers at "+addr, func() bool {
				got, err := stage.Fetch(t, s.Lab.Host, addr, "/")
				return err == nil && strings.Contains(got, `"name":"`+want+`"`)
			})
		}
	}
	s.Portolan(t, "ports", "add", "other", "8080:80")
	s.Portolan(t, "ports", "add", "other", "8080:80") // again: as it is
	s.Portolan(t, "ports", "add", "other", "127.0.0.1:8081:80")
	answers("other", "127.0.0.1:8080", "[::1]:8080", lab.HostV4+":8080", "127.0.0.1:8081")
	if got, err := stage.Fetch(t, s.Lab.Neighbour, lab.HostV4+":8080", "/ip"); err != nil || got != lab.NeighbourV4 {
		t.Errorf("the container sees %q (%v), want the neighbour", got, err)
	}
	if p := at(t, s, "0.0.0.0:8080"); !p.Added || p.Name != "other" {
		t.Errorf("the added port: %+v", p)
	}
	s.Portolan(t, "ports", "rm", "other", "127.0.0.1:8081")
	refused(t, s, "127.0.0.1:8081")
	// It follows the container, to another address as well.
	s.Docker(t, "stop", "-t", "0", "other")
	stage.Eventually(t, limit, "the port closes with the container", func() bool { return len(ports(t, s)) == 2 })
	s.Serve(t, "between", nil, "web", "-name", "between") // takes the address
	s.Docker(t, "start", "other")
	answers("other", "127.0.0.1:8080", "[::1]:8080")
	s.Docker(t, "rm", "-f", "other")
	stage.Eventually(t, limit, "the port goes with the container", func() bool { return len(ports(t, s)) == 2 })
	refused(t, s, "127.0.0.1:8080")
	answers("web", "127.0.0.1:8085")
}

// checkAddStays ends the daemon, and then the machine as well.
func checkAddStays(t *testing.T, s *stage.Stage) {
	s.Serve(t, "web", nil, "web", "-name", "web")
	s.Portolan(t, "ports", "add", "web", "8080:80")
	s.Portolan(t, "ports", "add", "web", "127.0.0.1:8081:80")
	answers := func(when string, addrs ...string) {
		t.Helper()
		for _, addr := range addrs {
			stage.Eventually(t, limit, addr+" answers "+when, func() bool {
				got, err := stage.Fetch(t, s.Lab.Host, addr, "/")
				return err == nil && strings.Contains(got, `"name":"web"`)
			})
		}
	}
	daemon := s.Status(t).Daemon.PID
	if err := syscall.Kill(daemon, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	refusedSoon(t, s, "127.0.0.1:8081")
	taken, err := s.Lab.Host.Listen("tcp", "127.0.0.1:8081")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = taken.Close() })
	s.Portolan(t, "up")
	if now := s.Status(t).Daemon.PID; now == daemon {
		t.Fatal("the daemon was not replaced")
	}
	answers("after the daemon died", "127.0.0.1:8080", "[::1]:8080")
	if p := at(t, s, "127.0.0.1:8081"); p.Name != "web" || !p.Added || !strings.Contains(p.Error, "address already in use: held by publish.test") {
		t.Errorf("the port that somebody took meanwhile: %+v", p)
	}
	taken.Close()
	s.Docker(t, "restart", "-t", "0", "web")
	answers("after the container restarts", "127.0.0.1:8080", "127.0.0.1:8081")
	s.Portolan(t, "down")
	s.Portolan(t, "up")
	if left := ports(t, s); len(left) != 0 {
		t.Errorf("before the container starts, published is %+v", left)
	}
	s.Docker(t, "start", "web")
	answers("after down and up", "127.0.0.1:8080", "127.0.0.1:8081")
}

// refusedSoon waits until a port has closed.
func refusedSoon(t *testing.T, s *stage.Stage, addr string) {
	t.Helper()
	stage.Eventually(t, limit, addr+" closes", func() bool {
		conn, err := s.Lab.Host.Dial(t.Context(), "tcp", addr)
		if err == nil {
			conn.Close()
		}
		return errors.Is(err, syscall.ECONNREFUSED)
	})
}

// checkOtherProfile has two machines want the same port: who comes second is told
// which container of which profile holds it.
func checkOtherProfile(t *testing.T, s *stage.Stage) {
	s.Serve(t, "web", []string{"-p", "8080:80", "-p", "127.0.0.1:8081:80/udp"}, "web", "-name", "web")
	s.Portolan(t, "--profile", "two", "up")
	t.Cleanup(func() { s.Portolan(t, "--profile", "two", "down", "--purge") })
	two := func(args ...string) (string, int) {
		return s.TryDocker(t, append([]string{"-H", "unix://" + filepath.Join(s.RunDir, "two", "docker.sock")}, args...)...)
	}
	if out, code := two("load", "-q", "-i", filepath.Join(s.Lab.Dir, "toolbox.tar")); code != 0 {
		t.Fatal(out)
	}
	for flag, want := range map[string]string{
		"192.0.2.10:8080:80":   "listen on 192.0.2.10:8080/tcp: address already in use: held by container web (172.17.0.2:80) of profile default: portolan (pid ",
		"0.0.0.0:8081:7/udp":   "listen on 0.0.0.0:8081/udp: address already in use: held by container web (172.17.0.2:80) of profile default: portolan (pid ",
		"127.0.0.1:8081:7/tcp": "",
	} {
		out, code := two("run", "--rm", "-p", flag, testimage.Name, "true")
		if (code == 0) != (want == "") || !strings.Contains(out, want) {
			t.Errorf("docker run -p %s in the second profile: exit code %d: %s; want %q", flag, code, out, want)
		}
	}
}

func refused(t *testing.T, s *stage.Stage, addr string) {
	t.Helper()
	conn, err := s.Lab.Host.Dial(t.Context(), "tcp", addr)
	if err == nil {
		conn.Close()
	}
	if !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("connect to %s: %v, want it refused", addr, err)
	}
}

// checkProxy reads the header from a container that echoes all it gets.
func checkProxy(t *testing.T, s *stage.Stage) {
	s.Serve(t, "echo", []string{"--label", "portolan.publish.proxy-protocol=7", "-p", "7000:7"}, "echo-tcp")
	s.Docker(t, "exec", "-d", "echo", "/bin/toolbox", "echo-tcp", "-addr", ":8")
	s.Serve(t, "plain", []string{"-p", "7001:7"}, "echo-tcp")
	for _, from := range []struct {
		node *lab.Node
		addr string
	}{
		{s.Lab.Neighbour, lab.HostV4 + ":7000"}, {s.Lab.Neighbour, "[" + lab.HostV6 + "]:7000"},
		{s.Lab.Host, "127.0.0.1:7000"}, {s.Lab.Host, "[::1]:7000"},
	} {
		conn, err := from.node.Dial(t.Context(), "tcp", from.addr)
		if err != nil {
			t.Fatal(err)
		}
		header := proxyproto.HeaderProxyFromAddrs(2, conn.LocalAddr(), conn.RemoteAddr())
		want, err := header.Format()
		if err != nil {
			t.Fatal(err)
		}
		if got := exchange(t, conn, "hello", len(want)+len("hello")); got != string(want)+"hello" {
			t.Errorf("at %s: the container gets %q, want %q and hello", from.addr, got, want)
		}
	}
	conn, err := s.Lab.Neighbour.Dial(t.Context(), "tcp", lab.HostV4+":7001")
	if err != nil {
		t.Fatal(err)
	}
	if got := exchange(t, conn, "hello", len("hello")); got != "hello" {
		t.Errorf("without the label the container gets %q", got)
	}
}

// exchange sends a text and reads n bytes.
func exchange(t *testing.T, conn net.Conn, text string, n int) string {
	t.Helper()
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(limit)); err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Write([]byte(text)); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, 0, n)
	for len(got) < n {
		more := make([]byte, n-len(got))
		read, err := conn.Read(more)
		got = append(got, more[:read]...)
		if err != nil {
			t.Fatalf("read from %s: %v after %q", conn.RemoteAddr(), err, got)
		}
	}
	return string(got)
}

// checkAddress takes an address from the host and gives it back.
func checkAddress(t *testing.T, s *stage.Stage) {
	const addr, prefix = "192.0.2.55", "192.0.2.55/24"
	add := func() { s.Lab.Host.Run(t, "ip", "addr", "add", prefix, "dev", "lan0") }
	remove := func() { s.Lab.Host.Run(t, "ip", "addr", "del", prefix, "dev", "lan0") }
	add()
	s.Serve(t, "web", []string{"-p", addr + ":8080:80", "-p", "8081:80"}, "web", "-name", "web")
	answers := func(addrs ...string) {
		t.Helper()
		for _, a := range addrs {
			if got, err := stage.Fetch(t, s.Lab.Neighbour, a, "/ip"); err != nil || got != lab.NeighbourV4 {
				t.Errorf("at %s: %q (%v)", a, got, err)
			}
		}
	}
	answers(addr+":8080", addr+":8081", lab.HostV4+":8081")
	remove()
	answers(lab.HostV4 + ":8081")
	stage.Eventually(t, limit, "portolan ports says that the port waits", func() bool {
		return strings.Contains(at(t, s, addr+":8080").Error, "comes back with it")
	})
	if p := at(t, s, "0.0.0.0:8081"); p.Error != "" {
		t.Errorf("the wildcard's port: %+v", p)
	}
	// The next daemon waits for it as well.
	if err := syscall.Kill(s.Status(t).Daemon.PID, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	s.Portolan(t, "up")
	stage.Eventually(t, limit, "the next daemon says that the port waits", func() bool {
		list := ports(t, s)
		return len(list) == 3 && strings.Contains(at(t, s, addr+":8080").Error, "comes back with it")
	})
	add()
	t.Cleanup(func() {
		if out, err := s.Lab.Host.Command(context.WithoutCancel(t.Context()), "ip", "addr", "del", prefix, "dev", "lan0").CombinedOutput(); err != nil {
			t.Errorf("remove %s: %v: %s", prefix, err, out)
		}
	})
	answers(addr+":8080", addr+":8081", lab.HostV4+":8081")
	stage.Eventually(t, limit, "portolan ports says that the port is back", func() bool { return at(t, s, addr+":8080").Error == "" })
}

func checkRefused(t *testing.T, s *stage.Stage) {
	for _, c := range []struct{ flag, want string }{
		{"8080:80/sctp", "0.0.0.0:8080/sctp"}, // by the kernel, if it knows no SCTP, else by us
		{"localhost:8080:80", "localhost"},
		{"host.lab:8080:80", "host.lab"},
		{"8080-8081:80-82", "8080-8081"}, // ranges of two lengths
		{"8080:80/icmp", "icmp"},
	} {
		out, code := s.TryDocker(t, "run", "--name", "failing", "-p", c.flag, testimage.Name, "true")
		s.TryDocker(t, "rm", "-f", "failing")
		if code != 125 || !strings.Contains(out, c.want) {
			t.Errorf("docker run -p %s: exit code %d, want 125 and %q: %s", c.flag, code, c.want, out)
		}
	}
}

// checkRandom publishes at ports of the engine's choice.
func checkRandom(t *testing.T, s *stage.Stage) {
	for _, flags := range [][]string{{"-P", "--expose", "7000-7004", "--expose", "7000/udp"}, {"-p", "127.0.0.1::80", "-p", "81"}, {"-p", "7000-7001", "-p", "127.0.0.1::7002-7003/udp"}} {
		s.Docker(t, append(append([]string{"run", "-d", "--name", "random"}, flags...), testimage.Name, "web")...)
		list := ports(t, s)
		s.Docker(t, "rm", "-f", "random")
		if len(list) < 3 {
			t.Errorf("%q publishes %+v", flags, list)
		}
		for _, p := range list {
			if port := p.Host.Port(); port < 49000 || port > 49900 {
				t.Errorf("%q publishes at port %d, want 49000 to 49900", flags, port)
			}
		}
	}
	// Containers on the machine's host network have the usual ports to go out by.
	in := s.Lab.Host.Command(t.Context(), "nsenter", "--net", "--target", fmt.Sprint(s.Status(t).Machine.PID), "cat", "/proc/sys/net/ipv4/ip_local_port_range")
	if got, err := in.CombinedOutput(); err != nil || strings.Join(strings.Fields(string(got)), " ") != "32768 60999" {
		t.Errorf("outgoing connections have the ports %q (%v), want the usual ones", got, err)
	}
	// The range is a setting.
	s.Portolan(t, "settings", "set", "portolan.randomPorts", "51000-51009", "--yes")
	s.Docker(t, "run", "-d", "--name", "random", "-P", "--expose", "80", testimage.Name, "web")
	for _, p := range ports(t, s) {
		if port := p.Host.Port(); port != 51000 {
			t.Errorf("-P publishes at port %d, want 51000", port)
		}
	}
	s.Docker(t, "rm", "-f", "random")
	s.Portolan(t, "settings", "unset", "portolan.randomPorts", "--yes")
}

// checkBusy names ports of which the host has some: from a range another one is
// chosen, and of one that is named alone the message says who holds it, also where
// the engine chooses from.
func checkBusy(t *testing.T, s *stage.Stage) {
	listenInRow(t, s, 9300, 2)
	listenInRow(t, s, 49500, 1)
	udp, err := s.Lab.Host.ListenPacket("udp", "[::1]:9300")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = udp.Close() })
	s.Docker(t, "run", "-d", "--name", "ranges", "-p", "9300-9309:80", "-p", "9300-9309:80/udp", testimage.Name, "web")
	want := append(both("tcp", 9302, 80), both("udp", 9301, 80)...)
	if got := bound(t, s); !slices.Equal(got, want) {
		t.Errorf("beside 9300 and 9301 of the host published are %q, want %q", got, want)
	}
	s.Docker(t, "rm", "-f", "ranges")
	atAgent(t, s, 49500, true)
	holder := fmt.Sprintf("listen on 0.0.0.0:49500/tcp: address already in use: held by publish.test (pid %d)", os.Getpid())
	out, code := s.TryDocker(t, "run", "--rm", "-p", "49500:80", testimage.Name, "true")
	if code == 0 || !strings.Contains(out, holder) {
		t.Errorf("docker run with a port that the host has: exit code %d: %s; want %q", code, out, holder)
	}
}

// listenInRow takes TCP ports of the host, on its loopback only: a wildcard's
// listener could not have them.
func listenInRow(t *testing.T, s *stage.Stage, first, n int) []net.Listener {
	t.Helper()
	var all []net.Listener
	t.Cleanup(func() { closeAll(all) })
	for port := first; port < first+n; port++ {
		l, err := s.Lab.Host.Listen("tcp", fmt.Sprint("127.0.0.1:", port))
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, l)
	}
	return all
}

func closeAll(all []net.Listener) {
	for _, l := range all {
		_ = l.Close()
	}
}

// checkRandomBesideBusy has the engine choose its very first port where the host
// uses the first 50 ports of the range, and later ones where it uses the next 9.
func checkRandomBesideBusy(t *testing.T, s *stage.Stage, busy []net.Listener) {
	random := func(want int) {
		t.Helper()
		s.Docker(t, "run", "-d", "--name", "random", "-P", "--expose", "80", testimage.Name, "web")
		defer s.Docker(t, "rm", "-f", "random")
		for _, p := range ports(t, s) {
			if int(p.Host.Port()) != want || p.Error != "" {
				t.Errorf("-P publishes %s (%s), want port %d", p.Binding, p.Error, want)
			}
		}
	}
	random(49050)
	more := listenInRow(t, s, 49051, 9)
	random(49060) // at once: the host is looked at before a container starts
	atAgent(t, s, 49059, true)
	// What the host gives up can be published by its number, soon.
	closeAll(busy)
	closeAll(more)
	atAgent(t, s, 49059, false)
	s.Docker(t, "run", "--rm", "-p", "49059:80", "-p", "49005:80", testimage.Name, "true")
}

// atAgent waits until the machine has a placeholder for a port of the host, or
// has none any more.
func atAgent(t *testing.T, s *stage.Stage, port int, want bool) {
	t.Helper()
	socket := fmt.Sprintf("0100007F:%04X 00000000:0000 0A", port)
	stage.Eventually(t, limit, fmt.Sprintf("placeholder for %d is %v", port, want), func() bool {
		out, err := os.ReadFile(fmt.Sprintf("/proc/%d/net/tcp", s.Status(t).Machine.PID))
		return err == nil && strings.Contains(string(out), socket) == want
	})
}

// checkManyClients has ten thousand sockets send from the neighbour, each its
// own text, and wants each text back at the socket that sent it, twice.
func checkManyClients(t *testing.T, s *stage.Stage) {
	const clients, atOnce = 10_000, 50
	s.Serve(t, "echo", []string{"-p", "7000:7/udp"}, "echo-udp")
	conns := make([]net.Conn, clients)
	defer func() {
		for _, conn := range conns {
			if conn != nil {
				conn.Close()
			}
		}
	}()
	err := s.Lab.Neighbour.Do(func() error {
		for i := range conns {
			conn, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(netip.MustParseAddrPort(lab.HostV4+":7000")))
			if err != nil {
				return err
			}
			conns[i] = conn
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	// Datagrams may be lost in a burst, so few are under way at once.
	for round := range 2 {
		for first := 0; first < clients; first += atOnce {
			for i := first; i < first+atOnce; i++ {
				if _, err := fmt.Fprintf(conns[i], "%d %d", round, i); err != nil {
					t.Fatal(err)
				}
			}
			for i := first; i < first+atOnce; i++ {
				echoed(t, conns[i], fmt.Sprintf("%d %d", round, i))
			}
		}
	}
	if p := at(t, s, "0.0.0.0:7000"); p.Connections != clients || p.Open != clients {
		t.Errorf("portolan ports: %+v, want %d clients that stand", p, clients)
	}
	large := strings.Repeat("x", 65_507)
	for addr, node := range map[string]*lab.Node{
		"127.0.0.1:7000": s.Lab.Host, "[::1]:7000": s.Lab.Host, lab.HostV4 + ":7000": s.Lab.Neighbour, "[" + lab.HostV6 + "]:7000": s.Lab.Neighbour,
	} {
		if got, err := stage.Ask(t, node, addr, large); err != nil || got != large {
			t.Errorf("a datagram of %d bytes to %s: %d come back (%v)", len(large), addr, len(got), err)
		}
	}
}

func echoed(t *testing.T, conn net.Conn, want string) {
	t.Helper()
	if err := conn.SetReadDeadline(time.Now().Add(limit)); err != nil {
		t.Fatal(err)
	}
	text := make([]byte, 100)
	n, err := conn.Read(text)
	if err != nil || string(text[:n]) != want {
		t.Fatalf("client %q gets %q (%v)", want, text[:n], err)
	}
}

// checkRestarts leaves connections in TIME_WAIT on the host each time.
func checkRestarts(t *testing.T, s *stage.Stage) {
	s.Serve(t, "web", []string{"-p", "8100-8119:8100-8119"}, "web", "-addr", ":8100", "-name", "web")
	for i := range *restarts {
		if out, code := s.TryDocker(t, "restart", "-t", "0", "web"); code != 0 {
			t.Fatalf("restart %d: %s", i+1, out)
		}
		stage.Eventually(t, limit, fmt.Sprintf("the container answers after restart %d", i+1), func() bool {
			_, err := stage.Fetch(t, s.Lab.Host, "127.0.0.1:8100", "/")
			return err == nil
		})
	}
	list := ports(t, s)
	for _, p := range list {
		if p.Error != "" {
			t.Errorf("%s: %s", p.Binding, p.Error)
		}
	}
	if len(list) != 2*20 {
		t.Errorf("%d bindings after the restarts, want 40", len(list))
	}
}

// weightOfShim is the promise for the proportional memory of one shim, in KiB;
// docker-proxy has 780 where two thousand run.
const weightOfShim = 300

func checkLargeRange(t *testing.T, s *stage.Stage) {
	last := 20000 + *bindings - 1
	began := time.Now()
	longest := slowestAnswer(t, s)
	s.Serve(t, "web", []string{"-p", fmt.Sprintf("20000-%d:20000-%d", last, last)}, "web", "-addr", fmt.Sprint(":", last), "-name", "web")
	took := time.Since(began)
	if longest := longest(); longest > 5*responsive {
		t.Errorf("docker version takes %v meanwhile, %v is promised", longest, responsive)
	} else {
		t.Logf("docker version takes %v at most meanwhile", longest)
	}
	if got, err := stage.Fetch(t, s.Lab.Neighbour, fmt.Sprintf("%s:%d", lab.HostV4, last), "/ip"); err != nil || got != lab.NeighbourV4 {
		t.Errorf("the last port: %q (%v)", got, err)
	}
	if n := len(ports(t, s)); n != 2**bindings {
		t.Errorf("%d bindings, want %d", n, 2**bindings)
	}
	weight, shims := shimWeight(t, filepath.Dir(s.Bin.Agent))
	t.Logf("%d ports in %v; %d shims, %d KiB together", *bindings, took, shims, weight)
	if shims < 2**bindings || weight > shims*weightOfShim {
		t.Errorf("%d shims weigh %d KiB, want %d and at most %d KiB each", shims, weight, 2**bindings, weightOfShim)
	}
}

// responsive is how soon the engine answers while it publishes a range.
const responsive = time.Second

// slowestAnswer asks the engine over and over until its result is called, which
// says how long the slowest answer took.
func slowestAnswer(t *testing.T, s *stage.Stage) (stop func() time.Duration) {
	t.Helper()
	ended, answer := make(chan struct{}), make(chan time.Duration, 1)
	go func() {
		longest := time.Duration(0)
		defer func() { answer <- longest }()
		for {
			began := time.Now()
			if out, code := s.TryDocker(t, "version", "-f", "{{.Server.Version}}"); code != 0 {
				t.Errorf("docker version: %s", out)
			}
			longest = max(longest, time.Since(began))
			select {
			case <-ended:
				return
			case <-time.After(100 * time.Millisecond):
			}
		}
	}()
	stop = sync.OnceValue(func() time.Duration { close(ended); return <-answer })
	t.Cleanup(func() { stop() })
	return stop
}

// shimWeight sums up Pss of smaps_rollup (proc_pid_smaps(5)) of the shims that
// run from dir.
func shimWeight(t *testing.T, dir string) (kib, shims int) {
	t.Helper()
	paths, err := filepath.Glob("/proc/[0-9]*/exe")
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range paths {
		if program, err := os.Readlink(path); err != nil || program != filepath.Join(dir, "portolan-shim") {
			continue
		}
		text, err := os.ReadFile(filepath.Join(filepath.Dir(path), "smaps_rollup"))
		if err != nil {
			continue // it has ended
		}
		for line := range strings.Lines(string(text)) {
			if value, ok := strings.CutPrefix(line, "Pss:"); ok {
				n, err := strconv.Atoi(strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(value), "kB")))
				if err != nil {
					t.Fatal(err)
				}
				kib, shims = kib+n, shims+1
			}
		}
	}
	return kib, shims
}
