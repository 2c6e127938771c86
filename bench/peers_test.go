package bench

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/portolan-net/portolan/bench/report"
)

// peer is a program that users take in Portolan's place.
type peer struct {
	program string // on PATH, or built into bin/peers
	report.Contestant
	start func(t testing.TB, h host, program string, mtu int) (*contestant, error)
}

func peers() []peer {
	gvproxy := "gvproxy and gvforwarder, a network namespace in a virtual machine's place"
	return []peer{
		{"slirp4netns", report.Contestant{Name: "slirp4netns", MTU: largeMTU, What: "a user and network namespace, ports by its API"}, newSlirp},
		{"pasta", report.Contestant{Name: report.Pasta, MTU: largeMTU, What: "a user and network namespace, ports by -t and -u"}, newPasta},
		{"gvproxy", report.Contestant{Name: "gvproxy, MTU 1500", MTU: 1500, What: gvproxy}, newGvproxy},
		{"gvproxy", report.Contestant{Name: "gvproxy, MTU 65520", MTU: largeMTU, What: gvproxy}, newGvproxy},
		{"rootlesskit", report.Contestant{Name: "rootlesskit, builtin", MTU: 65536, What: "its port driver alone: it copies between loopback interfaces"}, newRootlesskit},
	}
}

// host is where peers run: the lab's, as for Portolan.
type host struct {
	command commander
	server  int // its probe, which listens on loopback
}

const loopbackHost = "127.0.0.1"

// find returns a program's path. What was built for the benchmarks comes last.
func find(program string) (string, error) {
	if path, err := exec.LookPath(program); err == nil {
		return path, nil
	}
	path := filepath.Join(repository, "bin/peers", program)
	if _, err := os.Stat(path); err != nil {
		return "", errors.New("not installed: make bench-peers")
	}
	return path, nil
}

// add sets a peer up, or says why it takes no part.
func (p peer) add(t testing.TB, r *recorder, h host) *contestant {
	t.Helper()
	program, err := find(p.program)
	if err != nil {
		r.absent(p.Name, err)
		return nil
	}
	c, err := p.start(t, h, program, p.MTU)
	if err == nil {
		c.Contestant = p.Contestant
		c.sameProcess = p.program == "gvproxy" && p.MTU == largeMTU
		err = c.works(t.Context())
	}
	if err != nil {
		r.absent(p.Name, fmt.Errorf("does not run: %w", err))
		return nil
	}
	return c
}

// forwarded makes the contestant whose ports 127.0.0.1:probe and :web of the
// host lead to servers inside.
func forwarded(t testing.TB, h host, inside commander, gateway, resolver, probe, web string, carriers ...int) *contestant {
	t.Helper()
	c := &contestant{carriers: these(carriers...)}
	c.published = &way{client: h.command, addr: loopbackHost + ":" + probe, web: loopbackHost + ":" + web, server: serve(t, inside, "0.0.0.0")}
	if gateway != "" {
		c.out = &way{client: inside, addr: gateway + ":" + probePort, server: h.server}
		c.resolver = &way{client: inside, addr: resolver + ":53"}
	}
	return c
}

func newSlirp(t testing.TB, h host, program string, mtu int) (*contestant, error) {
	t.Helper()
	pid, inside := newUserSpace(t, h.command)
	api := filepath.Join(shortDir(t), "api")
	slirp := start(t, h.command(t.Context(), program, "--configure", fmt.Sprintf("--mtu=%d", mtu), "--api-socket", api, fmt.Sprint(pid), "tap0"))
	if err := awaitRoute(pid, "tap0"); err != nil {
		return nil, err
	}
	ports := map[string]string{probePort: newPort(), webPort: newPort()}
	for inner, outer := range ports {
		for _, proto := range []string{"tcp", "udp"} {
			if err := slirpForward(t.Context(), api, proto, outer, inner); err != nil {
				return nil, err
			}
		}
	}
	return forwarded(t, h, inside, "10.0.2.2", "10.0.2.3", ports[probePort], ports[webPort], slirp.Process.Pid), nil
}

func slirpForward(ctx context.Context, api, proto, outer, inner string) error {
	conn, err := new(net.Dialer).DialContext(ctx, "unix", api)
	if err != nil {
		return err
	}
	defer conn.Close()
	request := fmt.Sprintf(`{"execute":"add_hostfwd","arguments":{"proto":%q,"host_addr":%q,"host_port":%s,"guest_port":%s}}`, proto, loopbackHost, outer, inner)
	if _, err := conn.Write([]byte(request)); err != nil {
		return err
	}
	var answer struct{ Error any }
	if err := json.NewDecoder(conn).Decode(&answer); err != nil {
		return err
	}
	if answer.Error != nil {
		return fmt.Errorf("forward port: %v", answer.Error)
	}
	return nil
}

// newPasta lets pasta show the host's loopback at the address of the host's gateway.
func newPasta(t testing.TB, h host, program string, mtu int) (*contestant, error) {
	t.Helper()
	const resolver = "192.0.2.53"
	pid, inside := newUserSpace(t, h.command)
	web, port := newPort(), newPort()
	ports := port + ":" + probePort + "," + web + ":" + webPort
	pasta := start(t, h.command(t.Context(), program, "--foreground", "--config-net", "--mtu", fmt.Sprint(mtu), "--runas", "0",
		"--dns-forward", resolver, "-t", ports, "-u", ports, "-T", "none", "-U", "none", fmt.Sprint(pid)))
	if err := awaitRoute(pid, "lan0"); err != nil {
		return nil, err
	}
	return forwarded(t, h, inside, labGateway, resolver, port, web, pasta.Process.Pid), nil
}

func newGvproxy(t testing.TB, h host, program string, mtu int) (*contestant, error) {
	t.Helper()
	forwarder, err := find("gvforwarder")
	if err != nil {
		return nil, err
	}
	const inner = "192.168.127.2" // which gvproxy expects
	socket := filepath.Join(shortDir(t), "gv")
	proxy := start(t, h.command(t.Context(), program, "-mtu", fmt.Sprint(mtu), "-listen", "unix://"+socket, "-ssh-port", newPort()))
	if err := soon(func() error { _, err := os.Stat(socket); return err }); err != nil {
		return nil, err
	}
	pid, inside := newUserSpace(t, h.command)
	carrier := start(t, inside(t.Context(), forwarder, "-url", "unix://"+socket, "-preexisting", "-mtu", fmt.Sprint(mtu)))
	configure := fmt.Sprintf(`ip link set lo up && ip link set tap0 address 5a:94:ef:e4:0c:ee mtu %d up &&
		ip addr replace %s/24 dev tap0 && ip route replace default via 192.168.127.1`, mtu, inner)
	if err := soon(func() error { return inside(t.Context(), "sh", "-c", configure).Run() }); err != nil {
		return nil, fmt.Errorf("configure tap0: %w", err)
	}
	if err := awaitRoute(pid, "tap0"); err != nil {
		return nil, err
	}
	ports := map[string]string{probePort: newPort(), webPort: newPort()}
	for port, outer := range ports {
		for _, proto := range []string{"tcp", "udp"} {
			if err := gvproxyForward(t.Context(), socket, proto, loopbackHost+":"+outer, inner+":"+port); err != nil {
				return nil, err
			}
		}
	}
	return forwarded(t, h, inside, "192.168.127.254", "192.168.127.1", ports[probePort], ports[webPort], proxy.Process.Pid, carrier.Process.Pid), nil
}

func gvproxyForward(ctx context.Context, socket, proto, outer, inner string) error {
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", socket)
	}}}
	body, err := json.Marshal(map[string]string{"local": outer, "remote": inner, "protocol": proto})
	if err != nil {
		return err
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://gvproxy/services/forwarder/expose", bytes.NewReader(body))
	if err != nil {
		return err
	}
	response, err := client.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("forward port: %s", response.Status)
	}
	return nil
}

func newRootlesskit(t testing.TB, h host, program string, _ int) (*contestant, error) {
	t.Helper()
	state, port, web := filepath.Join(shortDir(t), "rk"), newPort(), newPort()
	publish := func(outer, inner, proto string) string { return loopbackHost + ":" + outer + ":" + inner + "/" + proto }
	// It wants ids for its user namespace, which root seldom has.
	ids := filepath.Join(t.TempDir(), "ids")
	check(t, os.WriteFile(ids, []byte("root:100000:65536\n"), 0o644))
	const withIDs = `mount --bind "$1" /etc/subuid && mount --bind "$1" /etc/subgid && shift && exec "$@"`
	kit := start(t, h.command(t.Context(), "unshare", "--mount", "sh", "-euc", withIDs, "sh", ids, program, "--state-dir", state, "--net=none", "--port-driver=builtin",
		"-p", publish(port, probePort, "tcp"), "-p", publish(port, probePort, "udp"), "-p", publish(web, webPort, "tcp"), "sleep", "infinity"))
	var child string
	err := soon(func() error {
		text, err := os.ReadFile(filepath.Join(state, "child_pid"))
		child = strings.TrimSpace(string(text))
		return err
	})
	if err != nil {
		return nil, err
	}
	inside := inNamespaces(child)
	if err := soon(func() error { return inside(t.Context(), "ip", "link", "set", "lo", "up").Run() }); err != nil {
		return nil, err
	}
	c := forwarded(t, h, inside, "", "", port, web)
	c.carriers = func() []int { return append(children(kit.Process.Pid, "exe"), kit.Process.Pid) }
	return c, nil
}

// newUserSpace makes a user namespace with a network namespace in it, as
// rootless engines do, and returns a process that holds them.
func newUserSpace(t testing.TB, host commander) (pid int, client commander) {
	t.Helper()
	holder := host(t.Context(), "sleep", "infinity")
	holder.Path, holder.Args = mustFind(t, "sleep"), []string{"sleep", "infinity"}
	holder.SysProcAttr = &syscall.SysProcAttr{
		Pdeathsig:   syscall.SIGKILL,
		Cloneflags:  syscall.CLONE_NEWUSER | syscall.CLONE_NEWNET,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: 0, Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: 0, Size: 1}},
	}
	pid = start(t, holder).Process.Pid
	return pid, inNamespaces(fmt.Sprint(pid))
}

// inNamespaces is where a process is that has user and network namespaces of its own.
func inNamespaces(pid string) commander {
	return func(ctx context.Context, name string, args ...string) *exec.Cmd {
		return entered(ctx, []string{"--target=" + pid, "--user", "--net", "--preserve-credentials"}, name, args...)
	}
}

// awaitRoute waits for a default route (destination 0) over an interface.
func awaitRoute(pid int, iface string) error {
	return soon(func() error {
		routes, err := os.ReadFile(fmt.Sprintf("/proc/%d/net/route", pid))
		if err == nil && !strings.Contains(string(routes), iface+"\t00000000") {
			err = fmt.Errorf("no route over %s", iface)
		}
		return err
	})
}

// shortDir is a directory whose path leaves room for a unix socket's name.
func shortDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "pb")
	check(t, err)
	t.Cleanup(func() { check(t, os.RemoveAll(dir)) })
	return dir
}
