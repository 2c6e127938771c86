// Package vpn shows that containers follow a VPN of the host: a real OpenVPN
// comes up and goes down under containers that run.
package vpn

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/portolan-net/portolan/internal/lab"
	"github.com/portolan-net/portolan/internal/stage"
	"github.com/portolan-net/portolan/internal/testimage"
)

const (
	// followed is five times the 2 s within which names follow the host.
	followed = 10 * time.Second
	// promptly bounds an answer for which nothing has to be waited.
	promptly = 2 * time.Second
)

func hostPort(addr string, port uint16) string {
	return netip.AddrPortFrom(netip.MustParseAddr(addr), port).String()
}

// containers are those that run before any VPN does: one on the default bridge,
// one on a user-defined network.
func containers() []string { return []string{"bridged", "networked"} }

func startContainers(t *testing.T, s *stage.Stage) {
	t.Helper()
	s.Docker(t, "network", "create", "mine")
	t.Cleanup(func() { s.Docker(t, "network", "rm", "mine") })
	for name, flags := range map[string][]string{"bridged": nil, "networked": {"--network", "mine"}} {
		s.Docker(t, slices.Concat([]string{"run", "-d", "--name", name}, flags, []string{testimage.Name, "sleep", "1h"})...)
		t.Cleanup(func() { s.Docker(t, "rm", "-f", name) })
	}
}

// A split tunnel, a full one, and one with a small path MTU come and go.
func TestVPN(t *testing.T) {
	s := stage.Up(t)
	c := startCompany(t, s)
	startContainers(t, s)
	t.Run("split tunnel", func(t *testing.T) { checkSplit(t, s, c) })
	t.Run("full tunnel", func(t *testing.T) { checkFull(t, s, c) })
	t.Run("small path MTU", func(t *testing.T) { checkSmall(t, s, c) })
	t.Run("small path MTU behind the tunnel", func(t *testing.T) { checkBehind(t, s, c) })
}

// checkSplit: the intranet by way of the VPN, everything else as before.
func checkSplit(t *testing.T, s *stage.Stage, c *company) {
	near := openFlow(t, s, "near", s.Lab.Neighbour, lab.NeighbourV4)
	far := openFlow(t, s, "far", s.Lab.Internet, lab.EmptyV6)
	wantNoIntranet(t, s)
	c.openServer(t, s)
	for round := range 2 { // it comes back as well as it came
		vpn := c.connect(t, s)
		wantIntranet(t, s, c)
		for _, name := range containers() {
			for addr, host := range map[string]string{lab.WebV4: lab.HostV4, lab.WebV6: lab.HostV6} {
				if seen := clientOf(t, s, name, hostPort(addr, 80)); seen != host {
					t.Errorf("%s: outside the tunnel the server saw %s, want the host %s", name, seen, host)
				}
			}
		}
		near.wantAlive(t)
		far.wantAlive(t)
		var inside doomed
		told := func() {}
		if round == 0 {
			inside = openDoomed(t, s)
			served, pending := openServed(t, s), openPending(t, s)
			told = func() { served(); pending() }
		}
		vpn.stop()
		inside.wantReset(t, s)
		told()
		wantNoIntranet(t, s)
		near.wantAlive(t)
		far.wantAlive(t)
		if t.Failed() {
			t.Fatalf("in round %d", round)
		}
	}
}

// checkFull: everything by way of the VPN, but for the host's own LAN.
func checkFull(t *testing.T, s *stage.Stage, c *company) {
	near := openFlow(t, s, "near", s.Lab.Neighbour, lab.NeighbourV4)
	before := openFlow(t, s, "before", s.Lab.Internet, lab.EmptyV6)
	c.openServer(t, s, "--push", "redirect-gateway def1 ipv6")
	wantSame := wantOnePort(t, s)
	wantSame(lab.HostV4, lab.HostV6)
	vpn := c.connect(t, s)
	wantIntranet(t, s, c)
	wantSame(clientV4, clientV6)
	wantSeen := func(v4, v6 string) {
		t.Helper()
		for _, name := range containers() {
			for addr, want := range map[string]string{lab.WebV4: v4, lab.WebV6: v6} {
				if seen := clientOf(t, s, name, hostPort(addr, 80)); seen != want {
					t.Errorf("%s: %s saw %s, want %s", name, addr, seen, want)
				}
			}
		}
	}
	wantSeen(clientV4, clientV6)
	near.wantAlive(t)
	kept := openFlow(t, s, "kept", s.Lab.Internet, intranetV4)
	vpn.again(t)
	kept.wantAlive(t) // its address was away for a moment only
	inside := openDoomed(t, s)
	vpn.stop()
	inside.wantReset(t, s)
	wantSeen(lab.HostV4, lab.HostV6)
	wantSame(lab.HostV4, lab.HostV6)
	wantNoIntranet(t, s)
	near.wantAlive(t)
	before.wantAlive(t) // its address was the host's own all the time
}

// wantOnePort returns a check that servers on the internet see a container's
// datagrams from these addresses, and always from the same port: its socket on the
// host goes along.
func wantOnePort(t *testing.T, s *stage.Stage) func(v4, v6 string) {
	t.Helper()
	var ports [2]uint16
	return func(v4, v6 string) {
		t.Helper()
		for i, to := range []struct{ server, own, want string }{{lab.WebV4, "0.0.0.0:4242", v4}, {lab.WebV6, "[::]:4242", v6}} {
			got := s.Exec(t, "bridged", "udp-send", hostPort(to.server, 7), "-from", to.own, "-size", "1400")
			visitors := s.Internet.UDPEcho[i].Clients()
			if got.Outcome != testimage.OK || len(visitors) == 0 {
				t.Fatalf("UDP to %s, which saw %v: %+v", to.server, visitors, got)
			}
			last := visitors[len(visitors)-1]
			if last.Addr().String() != to.want || ports[i] != 0 && last.Port() != ports[i] {
				t.Errorf("UDP to %s: it saw %s, want %s and the port %d as before", to.server, last, to.want, ports[i])
			}
			ports[i] = last.Port()
		}
	}
}

// checkSmall: what is large crosses a path of 1,300 bytes.
func checkSmall(t *testing.T, s *stage.Stage, c *company) {
	c.openServer(t, s, "--tun-mtu", "1300")
	c.connect(t, s, "--tun-mtu", "1300")
	wantIntranet(t, s, c)
	for _, name := range containers() {
		for _, addr := range []string{intranetV4, intranetV6} {
			const size = 20 << 20
			got := s.Exec(t, name, "get", fmt.Sprintf("http://%s/bytes/%d", hostPort(addr, 80), size), "-timeout", "60s")
			if got.Outcome != testimage.OK || got.SHA256 != lab.BytesSHA256(size) {
				t.Errorf("%s: %d bytes from %s: %+v", name, size, addr, got)
			}
			checkUpload(t, s, name, addr, size)
			for _, size := range []int{1200, 1400, 9000, 65507 - 20} { // with IPv6's header, which counts there
				got := s.Exec(t, name, "udp-send", hostPort(addr, 7), "-size", fmt.Sprint(size))
				if got.Outcome != testimage.OK {
					t.Errorf("%s: a datagram of %d bytes to %s: %+v", name, size, addr, got)
				}
			}
		}
	}
	checkPublished(t, s, func(args ...string) testimage.Result {
		t.Helper()
		return runToolbox(t, s.Lab.Internet, append([]string{toolboxOf(t, s)}, args...))
	})
}

// The ports of this host that lead to servers in containers: TCP that sends all
// back after the end of what came, and UDP.
const publishedTCP, publishedUDP = 8089, 8087

// checkPublished sends much to published ports by way of the VPN, and wants it
// back. run runs the toolbox on a computer beyond the VPN.
func checkPublished(t *testing.T, s *stage.Stage, run func(args ...string) testimage.Result) {
	t.Helper()
	s.Serve(t, "published-tcp", []string{"-p", fmt.Sprintf("%d:9", publishedTCP)}, "echo-tcp", "-addr", ":9", "-mode", "after-eof")
	s.Serve(t, "published-udp", []string{"-p", fmt.Sprintf("%d:7/udp", publishedUDP), "--network", "mine"}, "echo-udp")
	for _, addr := range []string{clientV4, clientV6} {
		const size = 10 << 20
		got := run("half-close", hostPort(addr, publishedTCP), "-send", fmt.Sprint(size), "-timeout", "60s")
		if got.Outcome != testimage.OK || got.Bytes != size {
			t.Errorf("%d bytes to and from %s: %+v", size, hostPort(addr, publishedTCP), got)
		}
		for _, size := range []int{1200, 1400, 9000, 65507 - 20} {
			// The first of a size, there and back, may be what finds out the path's.
			stage.Eventually(t, followed, fmt.Sprintf("a datagram of %d bytes to %s and back", size, hostPort(addr, publishedUDP)), func() bool {
				return run("udp-send", hostPort(addr, publishedUDP), "-size", fmt.Sprint(size), "-timeout", "500ms").Outcome == testimage.OK
			})
		}
	}
}

// toolboxOf is the test image's program for the lab's computers.
func toolboxOf(t *testing.T, s *stage.Stage) string {
	t.Helper()
	path := filepath.Join(s.Lab.Dir, "toolbox-of-nodes")
	if _, err := os.Stat(path); err != nil {
		if err := testimage.Build(t.Context(), path); err != nil {
			t.Fatal(err)
		}
	}
	return path
}

// runToolbox runs it on a node, be its outcome good or bad.
func runToolbox(t *testing.T, node *lab.Node, words []string) testimage.Result {
	t.Helper()
	out, _ := node.Command(t.Context(), words[0], words[1:]...).Output() // the result says more than the exit code
	got, err := testimage.Parse(out)
	if err != nil {
		t.Fatalf("%v: %v", words, err)
	}
	return got
}

// checkUpload sends size bytes to a server that counts them.
func checkUpload(t *testing.T, s *stage.Stage, container, addr string, size int) {
	t.Helper()
	ln, err := s.Lab.Internet.Listen("tcp", hostPort(addr, 9000))
	if err != nil {
		t.Fatal(err)
	}
	received := make(chan error, 1)
	go func() { // ends with the connection, or with the listener
		received <- func() error {
			conn, err := ln.Accept()
			if err != nil {
				return err
			}
			defer conn.Close()
			sum := sha256.New()
			if _, err := io.Copy(sum, conn); err != nil {
				return err
			}
			_, err = io.WriteString(conn, hex.EncodeToString(sum.Sum(nil)))
			return err
		}()
	}()
	got := s.Exec(t, container, "stream-send", hostPort(addr, 9000), "-bytes", fmt.Sprint(size), "-timeout", "60s")
	ln.Close()
	if err := <-received; err != nil || got.Outcome != testimage.OK {
		t.Errorf("%s: %d bytes to %s: %+v, the server: %v", container, size, addr, got, err)
	}
}

// wantIntranet checks that the company's names are known soon, and that its
// servers are then reached, from the VPN's addresses.
func wantIntranet(t *testing.T, s *stage.Stage, c *company) {
	t.Helper()
	want := strings.Join([]string{intranetV4, intranetV6}, " ")
	for _, name := range containers() {
		stage.Eventually(t, followed, name+" knows the intranet's names", func() bool {
			got := s.Exec(t, name, "lookup", intranetName)
			slices.Sort(got.Answers)
			return strings.Join(got.Answers, " ") == want
		})
		if got := s.Exec(t, name, "lookup", "web.internet.test"); got.Outcome != testimage.OK {
			t.Errorf("%s: public names: %+v", name, got)
		}
		if seen := clientOf(t, s, name, intranetName); seen != clientV4 && seen != clientV6 {
			t.Errorf("%s: by name the intranet saw %q, want the VPN's address", name, seen)
		}
		for i, client := range []string{clientV4, clientV6} {
			addr := []string{intranetV4, intranetV6}[i]
			if seen := clientOf(t, s, name, hostPort(addr, 80)); seen != client {
				t.Errorf("%s: over TCP %s saw %q, want the VPN's address %s", name, addr, seen, client)
			}
			got := s.Exec(t, name, "udp-send", hostPort(addr, 7), "-size", "1000")
			visitors := c.udp[i].Clients()
			if got.Outcome != testimage.OK || len(visitors) == 0 || visitors[len(visitors)-1].Addr().String() != client {
				t.Errorf("%s: over UDP %s saw %v, want the VPN's address %s: %+v", name, addr, visitors, client, got)
			}
			if got := s.Exec(t, name, "ping", addr); got.Outcome != testimage.OK {
				t.Errorf("%s: ping %s: %+v", name, addr, got)
			}
		}
	}
}

// wantNoIntranet checks that the company's names are unknown soon, that its
// addresses can't be reached, and that each of these is said at once.
func wantNoIntranet(t *testing.T, s *stage.Stage) {
	t.Helper()
	for _, name := range containers() {
		stage.Eventually(t, followed, name+" does not know the intranet's names", func() bool {
			got := s.Exec(t, name, "lookup", intranetName, "A")
			if got.Duration() > followed {
				t.Errorf("%s: a lookup took %s: %+v", name, got.Duration(), got)
			}
			// The lab's servers refuse; the engine makes SERVFAIL of that.
			return got.Outcome == testimage.Prohibited || got.Outcome == testimage.ServFail
		})
		if got := s.Exec(t, name, "lookup", "web.internet.test", "A"); got.Outcome != testimage.OK || got.Duration() > promptly {
			t.Errorf("%s: public names: %+v", name, got)
		}
		for _, addr := range []string{intranetV4, intranetV6} {
			got := s.Exec(t, name, "dial", "tcp", hostPort(addr, 80))
			if got.Outcome != testimage.NetUnreachable || got.Duration() > promptly {
				t.Errorf("%s: dial %s: %+v, want net unreachable at once", name, addr, got)
			}
			// One of both: a router without a route says so five times at once, and then
			// once a second (route.c in Linux's net/ipv4, error_cost).
			words := []string{"udp-send", hostPort(addr, 7)}
			if name == "networked" {
				words = []string{"ping", addr}
			}
			if got := s.Exec(t, name, words...); got.Outcome != testimage.NetUnreachable || got.Duration() > promptly {
				t.Errorf("%s: %v: %+v, want net unreachable at once", name, words, got)
			}
		}
	}
}

// clientOf is whom the web server at addr sees when the container asks.
func clientOf(t *testing.T, s *stage.Stage, container, addr string) string {
	t.Helper()
	got := s.Exec(t, container, "get", "http://"+addr+"/ip")
	if got.Outcome != testimage.OK {
		t.Errorf("%s: get %s: %+v", container, addr, got)
	}
	return strings.TrimSpace(got.Body)
}
