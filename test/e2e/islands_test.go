package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/portolan-net/portolan/internal/stage"
	"github.com/portolan-net/portolan/internal/testimage"
)

// island is one of the engine's networks with a container that asks, a web
// server on port 80 and a UDP server on port 7, both published on the host's
// loopback: the engine lets more through to what is published. Addresses are
// in the order of families.
type island struct {
	network       string
	client        string
	web, udp      string
	webAddr       [2]string
	udpAddr       [2]string
	clientAddr    [2]string
	gateway       [2]string
	publishedPort uint16
}

// newIsland makes the network, unless it is the default bridge, and starts the
// containers.
func newIsland(t *testing.T, s *stage.Stage, network string, port uint16) *island {
	t.Helper()
	if network != "bridge" {
		s.Docker(t, "network", "create", network)
		t.Cleanup(func() { s.Docker(t, "network", "rm", network) })
	}
	i := &island{
		network: network, client: network + "-client", web: network + "-web", udp: network + "-udp", publishedPort: port,
	}
	flags := []string{"--network", network}
	s.Docker(t, append(append([]string{"run", "-d", "--name", i.client}, flags...), testimage.Name, "sleep", "1h")...)
	t.Cleanup(func() { s.Docker(t, "rm", "-f", i.client) })
	s.Serve(t, i.web, append(flags, "-p", fmt.Sprintf("127.0.0.1:%d:80", port), "-p", fmt.Sprintf("[::1]:%d:80", port)), "web")
	s.Serve(t, i.udp, append(flags, "-p", fmt.Sprintf("127.0.0.1:%d:7/udp", port), "-p", fmt.Sprintf("[::1]:%d:7/udp", port)), "echo-udp")
	i.clientAddr, i.gateway = addresses(t, s, i.client, network)
	i.webAddr, _ = addresses(t, s, i.web, network)
	i.udpAddr, _ = addresses(t, s, i.udp, network)
	return i
}

// addresses are a container's own on a network and that network's gateways, in
// the order of families.
func addresses(t *testing.T, s *stage.Stage, container, network string) (own, gateway [2]string) {
	t.Helper()
	var networks map[string]struct{ IPAddress, GlobalIPv6Address, Gateway, IPv6Gateway string }
	text := s.Docker(t, "inspect", "-f", "{{json .NetworkSettings.Networks}}", container)
	if err := json.Unmarshal([]byte(text), &networks); err != nil {
		t.Fatalf("addresses of %s: %v: %s", container, err, text)
	}
	n := networks[network]
	if n.IPAddress == "" || n.GlobalIPv6Address == "" {
		t.Fatalf("%s on %s lacks an address: %s", container, network, text)
	}
	return [2]string{n.IPAddress, n.GlobalIPv6Address}, [2]string{n.Gateway, n.IPv6Gateway}
}

// within is the place in a running container.
func within(s *stage.Stage, container string) place {
	return place{"/bin/toolbox", func(ctx context.Context, script string) *exec.Cmd {
		return s.Command(ctx, "docker", "exec", container, "sh", "-c", script)
	}}
}

// silence is how long a probe waits for an answer that must not come. An answer
// of the own network takes about a millisecond.
const silence = "1s"

// udpClients are the addresses that a UDP server of an island has heard from.
func udpClients(t *testing.T, s *stage.Stage, container string) []string {
	t.Helper()
	out, _ := s.TryDocker(t, "logs", container)
	var clients []string
	for line := range strings.Lines(out) {
		r, err := testimage.Parse([]byte(line))
		if err != nil {
			t.Fatalf("logs of %s: %v", container, err)
		}
		if r.Outcome == testimage.OK {
			host, _, err := net.SplitHostPort(r.Remote)
			if err != nil {
				t.Fatalf("logs of %s: %v", container, err)
			}
			clients = append(clients, host)
		}
	}
	return clients
}

// checkApart shows that from's client reaches nothing of the others: no server
// by its container's address, no port that is published on loopback.
func checkApart(t *testing.T, s *stage.Stage, from *island, others []*island) {
	t.Helper()
	var probes []string
	for _, to := range others {
		for f, fam := range families() {
			probes = append(probes,
				fmt.Sprintf("dial tcp %s -timeout %s", hostPort(to.webAddr[f], 80), silence),
				fmt.Sprintf("dial tcp %s -timeout %s", hostPort(to.webAddr[f], to.publishedPort), silence),
				fmt.Sprintf("dial udp %s -timeout %s", hostPort(to.udpAddr[f], 7), silence),
				fmt.Sprintf("dial udp %s -timeout %s", hostPort(to.gateway[f], to.publishedPort), silence),
				fmt.Sprintf("ping %s -timeout %s", to.webAddr[f], silence),
				fmt.Sprintf("dial tcp %s -timeout %s", hostPort(to.gateway[f], to.publishedPort), silence),
				fmt.Sprintf("dial tcp %s -timeout %s", hostPort(from.gateway[f], to.publishedPort), silence),
				fmt.Sprintf("dial tcp %s -timeout %s", hostPort(machineAddr(fam), to.publishedPort), silence),
			)
		}
	}
	for i, r := range within(s, from.client).together(t, probes) {
		if r.Outcome == testimage.OK || r.Outcome == testimage.Connected || r.Outcome == testimage.Failed {
			t.Errorf("from %s: %s: %s %s", from.network, probes[i], r.Outcome, r.Error)
		}
	}
}

// machineAddr is vm.docker.internal.
func machineAddr(f family) string {
	return map[string]string{"IPv4": "192.168.65.3", "IPv6": "fdc4:f303:9324::3"}[f.name]
}

// checkWithin shows that what checkApart finds closed is open for those on the
// same network and, as published, on the host.
func checkWithin(t *testing.T, s *stage.Stage, i *island) {
	t.Helper()
	var probes []string
	for f := range families() {
		probes = append(probes,
			fmt.Sprintf("dial tcp %s", hostPort(i.webAddr[f], 80)),
			fmt.Sprintf("dial udp %s -from %s", hostPort(i.udpAddr[f], 7), i.clientAddr[f]),
			fmt.Sprintf("ping %s", i.webAddr[f]),
		)
	}
	for n, r := range within(s, i.client).together(t, probes) {
		if r.Outcome != testimage.OK && r.Outcome != testimage.Connected {
			t.Errorf("within %s: %s: %+v", i.network, probes[n], r)
		}
	}
	for _, host := range []string{"127.0.0.1", "::1"} {
		if body, err := stage.Fetch(t, s.Lab.Host, hostPort(host, i.publishedPort), "/"); err != nil {
			t.Errorf("%s published on %s: %q, %v", i.web, host, body, err)
		}
	}
}

// checkIslands shows for each pair of networks, in both directions and both
// families, that they do not reach each other.
func checkIslands(t *testing.T, s *stage.Stage, islands []*island) {
	t.Helper()
	for _, from := range islands {
		t.Run("within "+from.network, func(t *testing.T) { checkWithin(t, s, from) })
		t.Run("from "+from.network, func(t *testing.T) {
			checkApart(t, s, from, slices.DeleteFunc(slices.Clone(islands), func(i *island) bool { return i == from }))
		})
	}
	checkUDPClients(t, s, islands)
}

// checkUDPClients shows that the UDP servers have heard from their own network
// only: a datagram may arrive although its answer does not.
func checkUDPClients(t *testing.T, s *stage.Stage, islands []*island) {
	t.Helper()
	for _, i := range islands {
		for _, client := range udpClients(t, s, i.udp) {
			if client != i.clientAddr[0] && client != i.clientAddr[1] {
				t.Errorf("%s was reached by %s", i.udp, client)
			}
		}
	}
}
