package stage

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/portolan-net/portolan/internal/lab"
	"github.com/portolan-net/portolan/internal/portolan"
	"github.com/portolan-net/portolan/internal/testimage"
)

// family is one of the two IP versions as the lab has them.
type family struct {
	name, host, web, alias, gateway string
	index                           int // in lab.Services
}

func families() []family {
	return []family{
		{"IPv4", lab.HostV4, lab.WebV4, lab.HostAliasV4, "192.168.65.1", 0},
		{"IPv6", lab.HostV6, lab.WebV6, lab.HostAliasV6, "fdc4:f303:9324::1", 1},
	}
}

// hostPort joins an address of either family and a port.
func hostPort(addr string, port uint16) string {
	return netip.AddrPortFrom(netip.MustParseAddr(addr), port).String()
}

// networkKinds are the ways in which a container can be connected, as flags of
// `docker run`.
func networkKinds(t *testing.T, s *Stage) map[string][]string {
	t.Helper()
	s.Docker(t, "network", "create", "mine")
	s.Docker(t, "network", "create", "-d", "macvlan", "-o", "parent=eth0", "--ipv6",
		"--subnet", "192.168.65.0/24", "--ip-range", "192.168.65.128/25", "--gateway", "192.168.65.1",
		"--subnet", "fdc4:f303:9324::/64", "--gateway", "fdc4:f303:9324::1", "lan")
	t.Cleanup(func() { s.Docker(t, "network", "rm", "mine", "lan") })
	return map[string][]string{
		"default bridge":       nil,
		"user-defined network": {"--network", "mine"},
		"host network":         {"--network", "host"},
		"macvlan":              {"--network", "lan", "--ip6", "fdc4:f303:9324::8000"},
	}
}

// CheckOutbound tests that what a container sends leaves through the daemon's
// own sockets with the host's address, from every kind of network.
func CheckOutbound(t *testing.T, s *Stage) {
	t.Helper()
	s.Lab.StartWeb(t, s.Lab.Host, "127.0.0.1:8081")
	s.Lab.StartWeb(t, s.Lab.Host, "[::1]:8082")
	for _, f := range families() {
		s.Lab.StartWeb(t, s.Lab.Host, hostPort(f.alias, 8083))
	}
	daemon := s.Status(t).Daemon.PID
	for kind, flags := range networkKinds(t, s) {
		t.Run(kind, func(t *testing.T) {
			for _, f := range families() {
				t.Run(f.name, func(t *testing.T) { checkOutbound(t, s, f, flags, daemon) })
			}
			t.Run("DNS", func(t *testing.T) {
				got := s.Toolbox(t, flags, "lookup", "web.internet.test")
				if want := []string{lab.WebV4, lab.WebV6}; got.Outcome != testimage.OK || strings.Join(got.Answers, " ") != strings.Join(want, " ") {
					t.Errorf("web.internet.test is %s %v, want %v", got.Outcome, got.Answers, want)
				}
			})
			t.Run("host.docker.internal", func(t *testing.T) {
				for _, port := range []int{8081, 8082} { // on 127.0.0.1, on ::1
					got := s.Toolbox(t, flags, "get", fmt.Sprintf("http://host.docker.internal:%d/", port))
					if got.Outcome != testimage.OK || !strings.Contains(got.Body, "hello") {
						t.Errorf("port %d: %+v", port, got)
					}
				}
			})
			t.Run("the host's other addresses", func(t *testing.T) {
				for _, f := range families() {
					got := s.Toolbox(t, flags, "get", "http://"+hostPort(f.alias, 8083)+"/")
					if got.Outcome != testimage.OK {
						t.Errorf("%s: %+v", f.alias, got)
					}
				}
			})
		})
	}
}

// checkOutbound sends TCP, UDP and ping to the internet's servers.
func checkOutbound(t *testing.T, s *Stage, f family, flags []string, daemon int) {
	t.Helper()
	got := s.Toolbox(t, flags, "get", "http://"+hostPort(f.web, 80)+"/ip")
	if got.Outcome != testimage.OK || strings.TrimSpace(got.Body) != f.host {
		t.Errorf("TCP: %s, the server saw %q, want the host %s", got.Outcome, got.Body, f.host)
	}
	got = s.Toolbox(t, flags, "udp-send", hostPort(f.web, 7), "-size", "1400")
	if got.Outcome != testimage.OK {
		t.Errorf("UDP echo: %+v", got)
	}
	clients := s.Internet.UDPEcho[f.index].Clients()
	if len(clients) == 0 {
		t.Fatal("the UDP server saw nobody")
	}
	last := clients[len(clients)-1]
	if last.Addr().String() != f.host {
		t.Errorf("the UDP server saw %s, want the host %s", last, f.host)
	}
	owners, err := s.Lab.Host.SocketOwners(portolan.UDP, netip.AddrPortFrom(netip.Addr{}, last.Port()), netip.AddrPort{})
	if err != nil || len(owners) != 1 || owners[0] != daemon {
		t.Errorf("the host's socket of port %d belongs to %v (%v), want the daemon %d", last.Port(), owners, err, daemon)
	}
	if got := s.Toolbox(t, flags, "ping", f.web); got.Outcome != testimage.OK {
		t.Errorf("ping: %+v", got)
	}
	if got := s.Toolbox(t, flags, "ping", f.gateway); got.Outcome != testimage.OK {
		t.Errorf("ping the gateway: %+v", got)
	}
}
