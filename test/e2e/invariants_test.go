package e2e

import (
	"bytes"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/portolan-net/portolan/internal/lab"
	"github.com/portolan-net/portolan/internal/portolan"
	"github.com/portolan-net/portolan/internal/stage"
	"github.com/portolan-net/portolan/internal/testimage"
)

// secret stands in the environment of the user who starts Portolan, alone and
// in a proxy's address.
const secret = "correct-horse-battery"

// TestInvariants shows the security invariants of docs/security.md against
// containers with --privileged and, from outside, against a computer of the LAN.
// TestIsolation shows the same against containers as they are by default, with
// NET_RAW, and more of the third and the fifth.
func TestInvariants(t *testing.T) {
	s := stage.New(t)
	s.Env = append(s.Env, "A_TOKEN="+secret, "HTTP_PROXY=http://me:"+secret+"@proxy.test:3128", "LC_LAB=internet.test")
	s.Portolan(t, "up")
	s.LoadImage(t)
	one, two := newIsland(t, s, "one", 8411), newIsland(t, s, "two", 8412)
	hostile := *one
	hostile.client = "hostile"
	s.Docker(t, "run", "-d", "--name", hostile.client, "--privileged", "--network", "one", testimage.Name, "sleep", "1h")
	t.Cleanup(func() { s.Docker(t, "rm", "-f", hostile.client) })
	hostile.clientAddr, _ = addresses(t, s, hostile.client, "one")

	t.Run("2 the host's loopback by one name only", func(t *testing.T) { checkLoopback(t, s, &hostile) })
	t.Run("3 nothing forged is believed", func(t *testing.T) { checkForgedByPrivileged(t, s, &hostile, two) })
	t.Run("4 what is published, where it is published", func(t *testing.T) { checkFromOutside(t, s) })
	t.Run("5 an internal network has no way out", func(t *testing.T) { checkInternal(t, s) })
	t.Run("6 secrets stay outside", func(t *testing.T) { checkSecrets(t, s, &hostile) })
	// Last, for it reaches what is published on the host's loopback, as it should.
	t.Run("1 no control endpoint on an address", func(t *testing.T) { checkNoControl(t, s, &hostile) })
	t.Run("networks are apart", func(t *testing.T) { checkApart(t, s, &hostile, []*island{two}) })
}

// checkNoControl asks every UDP port of Portolan's addresses, and every TCP port
// from the machine's own network.
func checkNoControl(t *testing.T, s *stage.Stage, hostile *island) {
	t.Helper()
	for f, fam := range families() {
		base := []string{"192.168.65.", "fdc4:f303:9324::"}[f]
		for last, want := range map[string][]string{"1": nil, "3": nil, "7": {"53"}, "254": {"8411", "8412"}} {
			if f == 1 && want == nil {
				continue // refused in the same place as with IPv4; TestIsolation has TCP
			}
			r := s.Exec(t, hostile.client, "scan-udp", base+last, "-fence", hostPort(fam.web, 7))
			if r.Outcome != testimage.OK || r.Bytes != 65535 || !slices.Equal(r.Answers, want) {
				t.Errorf("UDP %s%s: %s %s after %d ports, answers from %v, want %v", base, last, r.Outcome, r.Error, r.Bytes, r.Answers, want)
			}
		}
	}
	root := []string{"--privileged", "--network", "host"}
	for addr, want := range map[string][]string{"192.168.65.1": {"3128 connected"}, "192.168.65.7": {"53 connected"}, "192.168.65.254": onLoopback(t, s)} {
		if r := s.Toolbox(t, root, "scan", addr); r.Outcome != testimage.OK || r.Bytes != 65535 || !slices.Equal(r.Answers, want) {
			t.Errorf("TCP %s from the machine: %s after %d ports, open %v, want %v", addr, r.Outcome, r.Bytes, r.Answers, want)
		}
	}
	// Whatever listens in the machine itself is seen from its own loopback.
	published := []string{"8411 connected", "8412 connected"}
	if r := s.Toolbox(t, root, "scan", "127.0.0.1"); r.Outcome != testimage.OK || !slices.Equal(r.Answers, published) {
		t.Errorf("the machine listens on %v, want %v", r.Answers, published)
	}
}

// checkLoopback starts servers on the host's loopback alone.
func checkLoopback(t *testing.T, s *stage.Stage, hostile *island) {
	t.Helper()
	s.Lab.StartWeb(t, s.Lab.Host, "127.0.0.1:8420")
	s.Lab.StartWeb(t, s.Lab.Host, "[::1]:8421")
	for f, fam := range families() {
		port := []uint16{8420, 8421}[f]
		get := "http://" + hostPort(hostAlias(fam), port) + "/"
		if r := s.Exec(t, hostile.client, "get", get); r.Outcome != testimage.OK {
			t.Errorf("%s: %+v", get, r)
		}
		loopback := []string{"127.0.0.1", "::1"}[f]
		base := []string{"192.168.65.", "fdc4:f303:9324::"}[f]
		for _, addr := range []string{fam.host, loopback, base + "1", base + "3", base + "7", hostile.gateway[f]} {
			if r := s.Exec(t, hostile.client, "dial", "tcp", hostPort(addr, port), "-timeout", silence); r.Outcome == testimage.Connected {
				t.Errorf("the host's loopback answers at %s", addr)
			}
		}
		// Host networking is on: there the host's loopback is meant to answer.
		if r := s.Toolbox(t, []string{"--network", "host"}, "dial", "tcp", hostPort(loopback, port)); r.Outcome != testimage.Connected {
			t.Errorf("the host's %s from the machine's network: %+v", loopback, r)
		}
	}
}

// checkForgedByPrivileged lies with all capabilities: on a bridge, and as root
// of the machine's own network.
func checkForgedByPrivileged(t *testing.T, s *stage.Stage, hostile, other *island) {
	t.Helper()
	t.Run("on a bridge", func(t *testing.T) { checkForgedByBridge(t, s, hostile, other) })

	router := fmt.Sprint(s.Status(t).Helper.PID)
	look := func() string {
		out := ""
		for _, what := range []string{"-4 neigh show nud permanent", "-6 neigh show nud permanent", "-4 route", "-6 route", "-4 addr", "-6 addr"} {
			out += s.Lab.Host.Run(t, "nsenter", append([]string{"-t", router, "-n", "ip"}, strings.Fields(what)...)...)
		}
		return out
	}
	before := look()
	if !strings.Contains(before, "192.168.65.3 dev e0 lladdr") {
		t.Fatalf("the router has no permanent neighbours:\n%s", before)
	}
	const claims = "192.168.65.1,192.168.65.3,192.168.65.7,192.168.65.254,fdc4:f303:9324::1,fdc4:f303:9324::3,fdc4:f303:9324::7,fdc4:f303:9324::254"
	root := []string{"--privileged", "--network", "host"}
	if r := s.Toolbox(t, root, "forge-link", "-claim", claims, "-iface", "eth0"); r.Outcome != testimage.OK {
		t.Fatalf("forge: %+v", r)
	}
	if diff := lab.Diff(before, look()); len(diff) != 0 {
		t.Errorf("the router believes lies of the machine:\n%s", strings.Join(diff, "\n"))
	}
	for f, fam := range families() {
		s.Internet.UDPEcho[f].Forget()
		for _, source := range [][2]string{{"203.0.113.9", "2001:db8:9::9"}, {lab.HostV4, lab.HostV6}, {"192.168.65.254", "fdc4:f303:9324::254"}} {
			r := s.Toolbox(t, root, "forge-udp", "-src", source[f], "-dst", hostPort(fam.web, 7), "-payload", "forged")
			if r.Outcome != testimage.OK && !strings.Contains(r.Error, "send datagram") {
				t.Errorf("forge %s: %+v", source[f], r)
			}
		}
		if r := s.Toolbox(t, root, "udp-send", hostPort(fam.web, 7)); r.Outcome != testimage.OK {
			t.Errorf("%s: an honest datagram: %+v", fam.name, r)
		}
		if clients := s.Internet.UDPEcho[f].Clients(); len(clients) != 1 {
			t.Errorf("%s: the internet heard from %v, want the one honest client", fam.name, clients)
		}
	}
}

// checkFromOutside lets the LAN's neighbour try every port of the host.
func checkFromOutside(t *testing.T, s *stage.Stage) {
	t.Helper()
	s.Serve(t, "open", []string{"-p", "8431:80", "-p", "127.0.0.1:8432:80", "-p", "[::1]:8432:80", "--expose", "81"}, "web")
	s.Serve(t, "open-udp", []string{"-p", "8433:7/udp"}, "echo-udp")
	s.Serve(t, "closed-udp", []string{"-p", "127.0.0.1:8434:7/udp", "-p", "[::1]:8434:7/udp"}, "echo-udp")
	neighbour := onNode(t, s, s.Lab.Neighbour)
	for _, fam := range families() {
		r := neighbour.run(t, "scan "+fam.host)
		if want := reachable(t, s, 8431); r.Outcome != testimage.OK || r.Bytes != 65535 || !slices.Equal(r.Answers, want) {
			t.Errorf("TCP %s: %s after %d ports, open %v, want %v", fam.host, r.Outcome, r.Bytes, r.Answers, want)
		}
		r = neighbour.run(t, "scan-udp "+fam.host+" -fence "+hostPort(fam.host, 8433))
		if r.Outcome != testimage.OK || r.Bytes != 65535 || !slices.Equal(r.Answers, []string{"8433"}) {
			t.Errorf("UDP %s: %s %s after %d ports, answers from %v, want 8433", fam.host, r.Outcome, r.Error, r.Bytes, r.Answers)
		}
	}
	if clients := udpClients(t, s, "closed-udp"); len(clients) != 0 {
		t.Errorf("the server published on loopback heard from %v", clients)
	}
	for _, host := range []string{"127.0.0.1", "::1"} { // it is there, for the host
		if got, err := stage.Ask(t, s.Lab.Host, hostPort(host, 8434), "x"); err != nil || got != "x" {
			t.Errorf("UDP published on %s: %q, %v", host, got, err)
		}
	}
	s.Docker(t, "rm", "-f", "open")
	if r := neighbour.run(t, "dial tcp "+hostPort(lab.HostV4, 8431)); r.Outcome != testimage.Refused {
		t.Errorf("a port that is no longer published: %+v", r)
	}
}

// reachable is what a scan from the LAN finds: the port, and what else the lab's
// host serves to others without Portolan.
func reachable(t *testing.T, s *stage.Stage, port uint16) []string {
	t.Helper()
	sockets, err := s.Lab.Host.Sockets()
	if err != nil {
		t.Fatal(err)
	}
	ours, err := s.Lab.Host.SocketsOf(s.Status(t).Daemon.PID)
	if err != nil {
		t.Fatal(err)
	}
	ports := []uint16{port}
	for _, socket := range sockets {
		if socket.Proto == portolan.TCP && socket.Listening && !socket.Local.Addr().IsLoopback() && !slices.Contains(ours, socket) {
			ports = append(ports, socket.Local.Port())
		}
	}
	slices.Sort(ports)
	var lines []string
	for _, port := range slices.Compact(ports) {
		lines = append(lines, strconv.Itoa(int(port))+" connected")
	}
	return lines
}

// checkSecrets looks for the secret wherever a container, a log or the API
// could show it.
func checkSecrets(t *testing.T, s *stage.Stage, hostile *island) {
	t.Helper()
	places := map[string]string{
		"a container's environment": s.Docker(t, "run", "--rm", "--entrypoint", "/bin/sh", testimage.Name, "-c", "set"),
		"docker inspect":            s.Docker(t, "inspect", hostile.client),
		"docker info":               s.Docker(t, "info"),
		"status":                    s.Portolan(t, "status", "--json"),
		"the environment of the machine's processes": s.Docker(t, "run", "--rm", "--privileged", "--pid", "host", "--entrypoint", "/bin/sh",
			testimage.Name, "-c", "cat /proc/[0-9]*/environ /proc/[0-9]*/cmdline 2>/dev/null; true"), // some end meanwhile
	}
	if text := places["the environment of the machine's processes"]; !strings.Contains(text, "LC_LAB=internet.test") || !strings.Contains(text, "dockerd") {
		t.Errorf("the machine's processes are not what this test looks at: %q", text)
	}
	dirs := []string{filepath.Join(s.StateDir, "default", "log"), filepath.Join(s.RunDir, "default")}
	for _, dir := range dirs {
		files := 0
		err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
			if err != nil || !d.Type().IsRegular() {
				return err
			}
			text, err := os.ReadFile(path)
			places[path] = string(bytes.ToLower(text))
			files++
			return err
		})
		if err != nil || files == 0 {
			t.Errorf("%d files below %s, %v", files, dir, err)
		}
	}
	for place, text := range places {
		if strings.Contains(text, secret) {
			t.Errorf("%s has the secret", place)
		}
	}
}
