package bench

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/portolan-net/portolan/bench/report"
	"github.com/portolan-net/portolan/internal/lab"
	"github.com/portolan-net/portolan/internal/stage"
)

const (
	labGateway = lab.GatewayV4
	// nameserver is what the lab's host asks, and name what is asked there.
	nameserver = lab.DNSV4 + ":53"
	name       = "web." + lab.Zone
)

// dockerEngine is a docker engine, of Portolan or not.
type dockerEngine struct {
	name   string
	docker func(args ...string) (string, error)
	root   int       // a process that sees the engine's files
	host   commander // where its published ports are
}

// references are contestants that isolate nothing: what the kernel alone does.
func references(t testing.TB) []*contestant {
	t.Helper()
	alone := newSpace(t)
	inner := &way{alone.command, loopbackHost + ":" + probePort, loopbackHost + ":" + webPort, serve(t, alone.command, loopbackHost)}
	found := []*contestant{{
		Contestant: report.Contestant{Name: report.Loopback, MTU: 65536, Reference: true, What: "client and server in one network namespace, no gateway"},
		out:        inner, published: inner, carriers: none,
	}}
	for _, mtu := range []int{largeMTU, containerMTU} {
		client, server := newForwarding(t, mtu)
		name := report.Forwarding
		if mtu != largeMTU {
			name += fmt.Sprintf(", MTU %d", mtu)
		}
		found = append(found, &contestant{
			Contestant: report.Contestant{Name: name, MTU: mtu, Reference: true, What: "client, forwarder and server in three namespaces, two veths, no firewall"},
			out:        &way{client.command, serverAddress + ":" + probePort, serverAddress + ":" + webPort, serve(t, server.command, "0.0.0.0")},
			published:  &way{server.command, clientAddress + ":" + probePort, clientAddress + ":" + webPort, serve(t, client.command, "0.0.0.0")},
			carriers:   none,
		})
	}
	return found
}

// newPlain starts the same engine without Portolan, behind a cable to a
// computer outside. proxy is its docker-proxy, "" for none.
func newPlain(t testing.TB, s *stage.Stage, image, name, proxy string) (*dockerEngine, *contestant) {
	t.Helper()
	outside, inner := newSpace(t), newSpace(t)
	connect(t, outside, inner, "net1", largeMTU)
	outside.up(t, "net1", "10.98.1.2/24")
	inner.up(t, "net1", "10.98.1.1/24")
	e := startPlain(t, s, inner, image, name, proxy)
	inside, outer, web := e.container(t, "served", "bridge")
	server := serve(t, inside, "0.0.0.0")
	c := &contestant{Contestant: report.Contestant{Name: name, MTU: containerMTU}, carriers: e.proxies}
	if proxy != "" {
		c.What = "the same dockerd without Portolan: its docker-proxy, from the host's loopback"
		c.published = &way{inner.command, loopbackHost + ":" + outer, loopbackHost + ":" + web, server}
		return e, c
	}
	c.What = "the same dockerd without Portolan: its bridge, masquerading and DNAT, reached from another namespace"
	c.carriers = none
	c.published = &way{outside.command, "10.98.1.1:" + outer, "10.98.1.1:" + web, server}
	c.out = &way{inside, "10.98.1.2:" + probePort, "", serve(t, outside.command, "0.0.0.0")}
	return e, c
}

// startPlain starts the same engine without Portolan, and loads the image.
func startPlain(t testing.TB, s *stage.Stage, where *space, image, name, proxy string) *dockerEngine {
	t.Helper()
	dir := filepath.Join(s.Lab.Dir, strings.NewReplacer(" ", "-", ",", "").Replace(name))
	address, pid := startBareEngine(t, where, s.Bin.Engine, dir, proxy)
	// Containers are removed when the test's context has ended.
	e := &dockerEngine{name: name, root: pid, host: where.command, docker: func(args ...string) (string, error) {
		text, err := output(s.Command(context.WithoutCancel(t.Context()), "env", append([]string{"DOCKER_HOST=" + address, "docker"}, args...)...))
		return string(text), err
	}}
	eventually(t, "the plain engine answers", func() bool { _, err := e.docker("version"); return err == nil })
	e.must(t, "load", "-q", "-i", image)
	return e
}

// portolanEngine is the one of the stage.
func portolanEngine(t testing.TB, s *stage.Stage) *dockerEngine {
	t.Helper()
	return &dockerEngine{name: report.Portolan, root: s.MachineProcess(t, "portolan-agent serve"), host: s.Lab.Host.Command, docker: func(args ...string) (string, error) {
		text, err := output(s.Command(context.WithoutCancel(t.Context()), "docker", args...))
		return string(text), err
	}}
}

// proxies are the processes that the engine has for published ports; Portolan's
// have the same name.
func (e *dockerEngine) proxies() []int { return children(e.root, "docker-proxy") }

// newPortolan makes Portolan's contestants, the first of which is the host's.
func newPortolan(t testing.TB, s *stage.Stage, h host) (*dockerEngine, []*contestant) {
	t.Helper()
	e := portolanEngine(t, s)
	inside, outer, web := e.container(t, "served", "bridge")
	e.must(t, "network", "create", "other")
	t.Cleanup(func() { e.must(t, "network", "rm", "other") })
	second, _, _ := e.container(t, "second", "other") // one network alone gets only a part of what there is
	server := serve(t, inside, "0.0.0.0")
	status := s.Status(t)
	daemon, hostAddr := these(status.Daemon.PID), status.Link.Host().V4.String()
	contestantOf := func(name, what string) *contestant {
		return &contestant{Contestant: report.Contestant{Name: name, MTU: containerMTU, What: what}, carriers: daemon}
	}
	ours := contestantOf(report.Portolan, "a container and the host; Portolan's link has an MTU of 65520")
	ours.out = &way{inside, hostAddr + ":" + probePort, "", h.server}
	ours.published = &way{h.command, loopbackHost + ":" + outer, loopbackHost + ":" + web, server}
	ours.resolver = &way{client: inside, addr: status.Link.DNS().V4.String() + ":53"}
	ours.idle = []*way{ours.out, {second, ours.out.addr, "", h.server}}

	lan := contestantOf("Portolan, LAN", "a container and another computer of the LAN, whose MTU is 1500")
	lan.sameProcess = true
	neighbour := s.Lab.Neighbour.Command
	lan.out = &way{inside, lab.NeighbourV4 + ":" + probePort, "", serve(t, neighbour, "0.0.0.0")}
	lan.published = &way{neighbour, lab.HostV4 + ":" + outer, lab.HostV4 + ":" + web, server}

	connected := contestantOf(report.Connect, "the host, and a container's own address")
	connected.carriers = none
	addr := e.must(t, "inspect", "-f", "{{.NetworkSettings.Networks.bridge.IPAddress}}", "served")
	connected.published = &way{whileConnected(s), addr + ":" + probePort, addr + ":" + webPort, server}
	return e, []*contestant{ours, lan, connected}
}

// whileConnected connects the host for each program, and no longer: what makes the
// connection costs other traffic something.
func whileConnected(s *stage.Stage) commander {
	return func(ctx context.Context, name string, args ...string) *exec.Cmd {
		const script = `portolan connect >&2 || exit; "$@"; status=$?; portolan disconnect >&2; exit $status`
		return s.Command(ctx, "sh", append([]string{"-c", script, "sh", name}, args...)...)
	}
}

// container starts one that holds its namespace for others, and returns where
// that is, and its published ports.
func (e *dockerEngine) container(t testing.TB, name, network string) (inside commander, probe, web string) {
	t.Helper()
	probe, web = newPort(), newPort()
	e.must(t, "run", "-d", "--name", name, "--network", network, "-p", probe+":"+probePort, "-p", probe+":"+probePort+"/udp", "-p", web+":"+webPort,
		imageName, "/bin/probe", "serve", "127.0.0.1:1")
	t.Cleanup(func() { e.must(t, "rm", "-f", name) })
	// /var/run would lead to this computer's /run.
	key := strings.Replace(e.must(t, "inspect", "-f", "{{.NetworkSettings.SandboxKey}}", name), "/var/run/", "/run/", 1)
	ns := fmt.Sprintf("/proc/%d/root%s", e.root, key)
	if _, err := os.Stat(ns); err != nil {
		t.Fatalf("find the container's network namespace: %v", err)
	}
	return func(ctx context.Context, name string, args ...string) *exec.Cmd {
		return entered(ctx, []string{"--net=" + ns}, name, args...)
	}, probe, web
}

func (e *dockerEngine) must(t testing.TB, args ...string) string {
	t.Helper()
	text, err := e.docker(args...)
	if err != nil {
		t.Fatalf("%s: docker %s: %v\n%s", e.name, strings.Join(args, " "), err, text)
	}
	return strings.TrimSpace(text)
}
