package settings_test

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"

	"github.com/portolan-net/portolan/internal/lab"
	"github.com/portolan-net/portolan/internal/stage"
	"github.com/portolan-net/portolan/internal/testimage"
)

// settled bounds what Portolan does by itself when routes have come to rest.
const settled = 30 * time.Second

// left bounds what it does by itself after a swarm: containers go on when half a
// minute has passed.
const left = settled + 30*time.Second

// checkMove gives a machine with running containers other subnets.
func checkMove(t *testing.T, s *stage.Stage) {
	s.Docker(t, "network", "create", "mine")
	t.Cleanup(func() { s.Docker(t, "network", "rm", "mine") })
	s.Serve(t, "named", []string{"--network", "mine", "--add-host", "host.docker.internal:host-gateway", "-p", "8310:80"}, "web")
	s.Serve(t, "on-host", []string{"--network", "host"}, "echo-tcp", "-addr", ":8311")
	before := lives(t, s, "always", "named", "on-host")

	if out, code := s.TryPortolan(t, "settings", "set", "--yes", "linuxVM.vpnkitCIDR", "172.17.0.0/16"); code != 1 || !strings.Contains(out, "172.17.0.0/16, which overlaps") {
		t.Errorf("a subnet that docker0 has: exit code %d: %s", code, out)
	}
	open, err := s.Lab.Neighbour.Dial(t.Context(), "tcp", hostPort(lab.HostV4, 8300))
	if err != nil {
		t.Fatal(err)
	}
	defer open.Close()
	s.Portolan(t, "settings", "set", "--later", "portolan.subnet6", "fd99::/64")
	out := s.Portolan(t, "settings", "set", "--yes", "linuxVM.vpnkitCIDR", "10.99.0.0/16")
	if !strings.Contains(out, "the machine's network has moved") {
		t.Errorf("the command says %s", out)
	}
	_ = open.SetReadDeadline(time.Now().Add(live))
	if n, err := open.Read(make([]byte, 1)); n > 0 || err == nil || err.(net.Error).Timeout() {
		t.Errorf("an open connection reads %d bytes, %v, want its end", n, err)
	}
	checkOn(t, s, "10.99.0.0/16", "fd99::/64")
	checkKnown(t, s, "always", "named", "on-host")
	for server, want := range map[string]testimage.Outcome{"10.99.0.7": testimage.OK, "fd99::7": testimage.OK, resolver: testimage.OK} {
		if got := s.Exec(t, "always", "lookup", "web.internet.test", "A", "-server", server); got.Outcome != want {
			t.Errorf("the resolver at %s: %+v, want %s", server, got, want)
		}
	}
	for name, want := range map[string]string{"gateway": "10.99.0.1 fd99::1", "host": "10.99.0.254 fd99::254"} {
		got := s.Exec(t, "always", "lookup", name+".docker.internal")
		if strings.Join(got.Answers, " ") != want {
			t.Errorf("%s.docker.internal is %v, want %s", name, got.Answers, want)
		}
	}
	if got := s.Exec(t, "always", "dial", "tcp", "192.168.65.1:3128"); got.Outcome != testimage.Connected {
		t.Errorf("the forward proxy at its former address: %+v", got)
	}
	if got := s.Toolbox(t, []string{"--add-host", "gate:host-gateway"}, "get", "http://gate:8081/"); got.Outcome != testimage.OK {
		t.Errorf("the host, for a new container: %+v", got)
	}
	if got := s.Docker(t, "exec", "named", "/bin/toolbox", "ifaces"); strings.Contains(got, "192.168.65.") {
		t.Errorf("the container has %s", got)
	}
	waits := func(p string) bool { return strings.Contains(p, "docker restart always named on-host") }
	if got := s.Status(t).Pending; !slices.ContainsFunc(got, waits) {
		t.Errorf("pending: %q, want who knows the former network", got)
	}
	if now := lives(t, s, "always", "named", "on-host"); now != before {
		t.Errorf("the containers were %s and are %s", before, now)
	}

	s.Docker(t, "restart", "-t", "1", "named")
	s.Docker(t, "restart", "-t", "1", "on-host")
	s.Portolan(t, "settings", "unset", "--later", "linuxVM.vpnkitCIDR")
	s.Portolan(t, "settings", "unset", "--yes", "portolan.subnet6")
	checkOn(t, s, "192.168.65.0/24", "fdc4:f303:9324::/64")
	checkKnown(t, s, "always", "named")
	waits = func(p string) bool { return strings.HasSuffix(p, "docker restart named on-host") }
	if got := s.Status(t).Pending; !slices.ContainsFunc(got, waits) {
		t.Errorf("pending: %q, want who knows the former network", got)
	}
	s.Docker(t, "restart", "-t", "1", "named", "on-host")
	eventually(t, "nobody knows a former network", func() bool { return len(s.Status(t).Pending) == 0 })
}

// checkClash: a network of the host's that overlaps makes the machine move, unless
// somebody chose the subnet.
func checkClash(t *testing.T, s *stage.Stage) {
	before := lives(t, s, "always")
	const pool = "172.18.0.0/16" // the engine's first choice, and somebody's on the host
	choice := func() string {
		s.Docker(t, "network", "create", "choice")
		defer s.Docker(t, "network", "rm", "choice")
		return s.Docker(t, "network", "inspect", "-f", "{{range .IPAM.Config}}{{.Subnet}} {{end}}", "choice")
	}
	if got := choice(); !strings.Contains(got, pool) {
		t.Errorf("the engine chooses %s, want %s", got, pool)
	}
	s.Lab.Host.Run(t, "ip", "route", "add", pool, "via", lab.GatewayV4)
	stage.Eventually(t, settled, "the machine knows the host's new network", func() bool { return routed(t, s, pool) })
	if got := choice(); strings.Contains(got, pool) {
		t.Errorf("the engine chooses %s, which the host has now", got)
	}
	s.Lab.Host.Run(t, "ip", "route", "del", pool, "via", lab.GatewayV4)
	stage.Eventually(t, settled, "the machine knows that it has gone", func() bool { return !routed(t, s, pool) })
	s.Lab.Host.Run(t, "ip", "route", "add", "192.168.65.0/24", "via", lab.GatewayV4)
	stage.Eventually(t, settled, "the machine has moved by itself", func() bool { return moved(t, s, "192.168.66.0/24") })
	checkKnown(t, s, "always")
	if now := lives(t, s, "always"); now != before {
		t.Errorf("the container was %s and is %s", before, now)
	}
	if got := s.Status(t).Problems; len(got) != 0 {
		t.Errorf("problems: %q", got)
	}
	s.Portolan(t, "settings", "set", "--yes", "linuxVM.vpnkitCIDR", "192.168.65.0/24") // the default, but chosen
	told := func(p string) bool {
		return strings.Contains(p, "a route to 192.168.65.0/24") && strings.Contains(p, "portolan settings set linuxVM.vpnkitCIDR")
	}
	if got := s.Status(t); got.Link.V4.String() != "192.168.65.0/24" || !slices.ContainsFunc(got.Problems, told) {
		t.Errorf("a chosen subnet that overlaps: on %s, problems %q", got.Link.V4, got.Problems)
	}
	if out, _ := s.TryPortolan(t, "doctor", "--target", hostPort(lab.WebV4, 80)); !strings.Contains(out, "a route to 192.168.65.0/24, which overlaps") {
		t.Errorf("doctor: %s", out)
	}
	s.Portolan(t, "settings", "unset", "linuxVM.vpnkitCIDR") // nothing to ask: it is there
	stage.Eventually(t, settled, "the machine has moved again", func() bool { return moved(t, s, "192.168.66.0/24") })
	s.Lab.Host.Run(t, "ip", "route", "del", "192.168.65.0/24", "via", lab.GatewayV4)
	s.Portolan(t, "settings", "set", "--yes", "linuxVM.vpnkitCIDR", "192.168.65.0/24")
	s.Portolan(t, "settings", "unset", "linuxVM.vpnkitCIDR")
	eventually(t, "nothing overlaps any more", func() bool { return len(s.Status(t).Problems) == 0 })
}

// moved reports whether all of the machine is on a subnet.
func moved(t *testing.T, s *stage.Stage, v4 string) bool {
	t.Helper()
	status := s.Status(t)
	moving := func(pending string) bool { return strings.Contains(pending, "is moving") }
	// What is pending is listed while the engine answers.
	return status.Link.V4.String() == v4 && status.Engine.Ready && !slices.ContainsFunc(status.Pending, moving)
}

// checkDeath: what a daemon leaves half moved, the next one finishes.
func checkDeath(t *testing.T, s *stage.Stage) {
	before := lives(t, s, "always")
	s.Portolan(t, "settings", "set", "--later", "linuxVM.vpnkitCIDR", "10.98.0.0/16")
	code := make(chan int)
	go func() {
		_, failed := s.TryPortolan(t, "settings", "apply", "--yes")
		code <- failed
	}()
	begun := func() bool { return s.Status(t).Link.V4.String() == "10.98.0.0/16" }
	stage.Eventually(t, settled, "the machine moves", begun)
	if err := syscall.Kill(s.Status(t).Daemon.PID, syscall.SIGKILL); err != nil {
		t.Error(err)
	}
	if <-code == 0 {
		t.Error("the daemon had moved the machine before it died")
	}
	s.Portolan(t, "up")
	stage.Eventually(t, settled, "the machine has moved", func() bool { return moved(t, s, "10.98.0.0/16") })
	checkOn(t, s, "10.98.0.0/16", "fdc4:f303:9324::/64")
	checkKnown(t, s, "always")
	if now := lives(t, s, "always"); now != before {
		t.Errorf("the container was %s and is %s", before, now)
	}
	s.Portolan(t, "settings", "unset", "--yes", "linuxVM.vpnkitCIDR")
	checkOn(t, s, "192.168.65.0/24", "fdc4:f303:9324::/64")
}

// checkStart: a machine that starts takes other networks than those of the host.
func checkStart(t *testing.T, s *stage.Stage) {
	routes := [][]string{{"192.168.65.0/24", "via", lab.GatewayV4}, {"fdc4:f303:9324::/64", "via", lab.GatewayV6}}
	for _, route := range routes {
		s.Lab.Host.Run(t, "ip", append([]string{"route", "add"}, route...)...)
	}
	s.Portolan(t, "up")
	checkOn(t, s, "192.168.66.0/24", "fdc4:f303:9324:1::/64")
	if got := s.Status(t).Problems; len(got) != 0 {
		t.Errorf("problems: %q", got)
	}
	for _, route := range routes {
		s.Lab.Host.Run(t, "ip", append([]string{"route", "del"}, route...)...)
	}
}

// checkSwarm: an engine in a swarm stays where its members know it, whatever the
// host comes to have. When it has left, the machine moves by itself, and containers
// go on.
func checkSwarm(t *testing.T, s *stage.Stage) {
	s.Docker(t, "swarm", "init")
	out, code := s.TryPortolan(t, "settings", "set", "--yes", "linuxVM.vpnkitCIDR", "10.99.0.0/16")
	if code != 1 || !strings.Contains(out, "docker swarm leave") {
		t.Errorf("in a swarm: exit code %d: %s", code, out)
	}
	if got := strings.TrimSpace(s.Portolan(t, "settings", "get", "linuxVM.vpnkitCIDR")); got != "192.168.65.0/24" {
		t.Errorf("what was refused is written: %s", got)
	}
	s.Lab.Host.Run(t, "ip", "route", "add", "192.168.65.0/24", "via", lab.GatewayV4)
	clash := func(p string) bool { return strings.Contains(p, "overlaps the machine's network 192.168.65.0/24") }
	eventually(t, "status names the clash", func() bool { return slices.ContainsFunc(s.Status(t).Problems, clash) })
	s.Docker(t, "swarm", "leave", "--force")
	before := lives(t, s, "always")
	stage.Eventually(t, left, "the machine has moved by itself", func() bool { return moved(t, s, "192.168.66.0/24") })
	s.Lab.Host.Run(t, "ip", "route", "del", "192.168.65.0/24", "via", lab.GatewayV4)
	if now := lives(t, s, "always"); now != before {
		t.Errorf("the container was %s and is %s", before, now)
	}
}

// lives tells containers that have been started again from those that have not.
func lives(t *testing.T, s *stage.Stage, names ...string) string {
	t.Helper()
	return s.Docker(t, append([]string{"inspect", "-f", "{{.State.StartedAt}} {{.State.Pid}}"}, names...)...)
}

// checkOn looks where the machine is: by status, and by what it has itself.
func checkOn(t *testing.T, s *stage.Stage, v4, v6 string) {
	t.Helper()
	status := s.Status(t)
	if status.Link.V4.String() != v4 || status.Link.V6.String() != v6 {
		t.Fatalf("the machine is on %s and %s, want %s and %s", status.Link.V4, status.Link.V6, v4, v6)
	}
	h, eth0 := machineLink(t, s)
	defer h.Close()
	addrs, err := h.AddrList(eth0, netlink.FAMILY_ALL)
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range addrs {
		if addr, _ := netip.AddrFromSlice(a.IP); !addr.IsLinkLocalUnicast() && !status.Link.Contains(addr.Unmap()) {
			t.Errorf("eth0 has %s", a.IPNet)
		}
	}
}

// machineLink opens the machine's network, for the caller to close, and finds its
// end of the link.
func machineLink(t *testing.T, s *stage.Stage) (*netlink.Handle, netlink.Link) {
	t.Helper()
	ns, err := netns.GetFromPid(s.Status(t).Machine.PID)
	if err != nil {
		t.Fatal(err)
	}
	defer ns.Close()
	h, err := netlink.NewHandleAt(ns)
	if err != nil {
		t.Fatal(err)
	}
	eth0, err := h.LinkByName("eth0")
	if err != nil {
		t.Fatal(err)
	}
	return h, eth0
}

// routed reports whether the machine has a route of its own to a network.
func routed(t *testing.T, s *stage.Stage, network string) bool {
	t.Helper()
	h, eth0 := machineLink(t, s)
	defer h.Close()
	routes, err := h.RouteList(eth0, netlink.FAMILY_V4)
	if err != nil {
		t.Fatal(err)
	}
	return slices.ContainsFunc(routes, func(r netlink.Route) bool { return r.Dst != nil && r.Dst.String() == network })
}

// checkKnown: containers that were there before a move find everything by the names
// that they have always known, and are found.
func checkKnown(t *testing.T, s *stage.Stage, names ...string) {
	t.Helper()
	for _, name := range names {
		for _, url := range []string{"http://web.internet.test/ip", "http://host.docker.internal:8081/", "http://" + hostPort(lab.WebV6, 80) + "/ip"} {
			if got := s.Exec(t, name, "get", url); got.Outcome != testimage.OK {
				t.Errorf("%s gets %s: %+v", name, url, got)
			}
		}
	}
	for port, name := range map[uint16]string{8300: "always", 8310: "named"} {
		if !slices.Contains(names, name) {
			continue
		}
		stage.Eventually(t, live, fmt.Sprintf("port %d answers", port), func() bool {
			_, err := stage.Fetch(t, s.Lab.Neighbour, hostPort(lab.HostV4, port), "/")
			return err == nil
		})
	}
}
