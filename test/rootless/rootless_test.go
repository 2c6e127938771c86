// Package rootless shows that what works as root works for an ordinary user,
// and what such a user is told when the system forbids it. Each user is made
// for the test.
package rootless

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/portolan-net/portolan/internal/lab"
	"github.com/portolan-net/portolan/internal/stage"
	"github.com/portolan-net/portolan/internal/testimage"
)

// An ordinary user's machine does what root's does, and leaves as little.
func TestRootless(t *testing.T) {
	s := stage.NewUser(t)
	before := snapshot(t, s)
	nothing, err := s.Lab.Baseline(filepath.Join(s.RunDir, "default"), filepath.Join(s.RunDir, "two"))
	if err != nil {
		t.Fatal(err)
	}
	s.Portolan(t, "up")
	s.LoadImage(t)
	for _, part := range []struct {
		name  string
		check func(*testing.T, *stage.Stage)
	}{
		{"ping is forbidden on the host", checkPingForbidden}, // before the daemon has a ping socket
		{"outbound", stage.CheckOutbound},
		{"published ports", checkPublish},
		{"low ports", checkLowPorts},
		{"random ports", checkRandomPorts},
		{"user-defined networks", checkNetworks},
		{"host network", checkHostNetwork},
		{"init", checkInit},
		{"bind mounts", checkBindMounts},
		{"build", checkBuild},
		{"root in a container is the user outside", checkRoot},
		{"a privileged container", checkPrivileged},
		{"survival", checkSurvival},
		{"another subnet", checkMove},
		{"another profile, in swarm mode", checkSwarm},
	} {
		t.Run(part.name, func(t *testing.T) { part.check(t, s) })
	}
	if diff := lab.Diff(before, snapshot(t, s)); len(diff) != 0 {
		t.Errorf("the host's network changed while the machine ran:\n%s", strings.Join(diff, "\n"))
	}
	s.Portolan(t, "down")
	nothing.Check(t)
	if diff := lab.Diff(before, snapshot(t, s)); len(diff) != 0 {
		t.Errorf("the host's network is not what it was:\n%s", strings.Join(diff, "\n"))
	}
	t.Run("purge", func(t *testing.T) { checkPurge(t, s) })
}

func snapshot(t *testing.T, s *stage.Stage) string {
	t.Helper()
	text, err := s.Lab.Host.Snapshot()
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// hostPort joins an address of either family and a port.
func hostPort(addr string, port uint16) string {
	return netip.AddrPortFrom(netip.MustParseAddr(addr), port).String()
}

// shell runs a shell script in a running container and returns all output.
func shell(t *testing.T, s *stage.Stage, container, script string) (string, int) {
	t.Helper()
	return s.TryDocker(t, "exec", container, "sh", "-c", script)
}

// A closed ping_group_range: the container is told at once, doctor says what to
// type, and typing it is enough.
func checkPingForbidden(t *testing.T, s *stage.Stage) {
	s.SetPingGroups(t, "1 0")
	t.Cleanup(func() { s.SetPingGroups(t, "0 2147483647") })
	start := time.Now()
	if got := s.Toolbox(t, nil, "ping", lab.WebV4, "-timeout", "30s"); got.Outcome != testimage.Prohibited && got.Outcome != testimage.HostUnreachable {
		t.Errorf("ping: %+v, want a refusal", got)
	}
	if took := time.Since(start); took > 15*time.Second {
		t.Errorf("the refusal took %s", took)
	}
	out, _ := s.TryPortolan(t, "doctor", "--target", hostPort(lab.WebV4, 80))
	says(t, out, "sysctl -w net.ipv4.ping_group_range='0 2147483647'")
	s.SetPingGroups(t, "0 2147483647")
	if got := s.Toolbox(t, nil, "ping", lab.WebV4); got.Outcome != testimage.OK {
		t.Errorf("ping once it is allowed: %+v", got)
	}
}

// says checks that a message holds what has to be typed.
func says(t *testing.T, message, command string) {
	t.Helper()
	if !strings.Contains(message, command) {
		t.Errorf("the message does not say %q:\n%s", command, message)
	}
}

func checkPublish(t *testing.T, s *stage.Stage) {
	s.Serve(t, "web", []string{"-p", "8080:80", "-p", "127.0.0.1:8081:80"}, "web")
	s.Serve(t, "who", []string{"-p", "8080:7/udp"}, "echo-udp", "-mode", "whoami")
	for host, neighbour := range map[string]string{lab.HostV4: lab.NeighbourV4, lab.HostV6: lab.NeighbourV6} {
		if got, err := stage.Fetch(t, s.Lab.Neighbour, hostPort(host, 8080), "/ip"); err != nil || got != neighbour {
			t.Errorf("TCP: the container sees the neighbour %s as %q (%v)", neighbour, got, err)
		}
		if got, err := stage.Ask(t, s.Lab.Neighbour, hostPort(host, 8080), "who"); err != nil || !strings.Contains(got, neighbour) {
			t.Errorf("UDP: the container sees the neighbour %s as %q (%v)", neighbour, got, err)
		}
	}
	if _, err := stage.Fetch(t, s.Lab.Host, "127.0.0.1:8081", "/"); err != nil {
		t.Errorf("a port on the loopback: %v", err)
	}
	if _, err := stage.Fetch(t, s.Lab.Neighbour, hostPort(lab.HostV4, 8081), "/"); err == nil {
		t.Error("the neighbour reaches a port on the loopback")
	}
	out, code := s.TryDocker(t, "run", "--rm", "-p", "8080:80", testimage.Name, "true")
	if code == 0 || !strings.Contains(out, "8080") || !strings.Contains(out, "already") {
		t.Errorf("a port taken by a container: exit code %d: %s", code, out)
	}
	taken, err := s.Lab.Host.Listen("tcp", "127.0.0.1:8082")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	out, code = s.TryDocker(t, "run", "--rm", "-p", "8082:80", testimage.Name, "true")
	if code == 0 || !strings.Contains(out, "listen on 0.0.0.0:8082") || !strings.Contains(out, "address already in use") {
		t.Errorf("a port taken by a program: exit code %d: %s", code, out)
	}
}

// A port below ip_unprivileged_port_start fails, says what to type, and works
// when that was typed.
func checkLowPorts(t *testing.T, s *stage.Stage) {
	const command = "sysctl -w net.ipv4.ip_unprivileged_port_start=80"
	out, code := s.TryDocker(t, "run", "--rm", "-p", "80:80", testimage.Name, "true")
	if code == 0 {
		t.Fatalf("port 80 is published: %s", out)
	}
	says(t, out, "as root, type: "+command)
	out, _ = s.TryPortolan(t, "doctor", "--target", hostPort(lab.WebV4, 80))
	says(t, out, command)
	s.Lab.Host.Run(t, "sh", "-c", command)
	t.Cleanup(func() {
		err := s.Lab.Host.Do(func() error {
			return os.WriteFile("/proc/sys/net/ipv4/ip_unprivileged_port_start", []byte("1024"), 0)
		})
		if err != nil {
			t.Error(err)
		}
	})
	s.Serve(t, "low", []string{"-p", "80:80"}, "web")
	if got, err := stage.Fetch(t, s.Lab.Neighbour, hostPort(lab.HostV4, 80), "/ip"); err != nil || got != lab.NeighbourV4 {
		t.Errorf("the container sees the neighbour as %q (%v)", got, err)
	}
}

// checkRandomPorts has the host use the ports that dockerd would choose next.
func checkRandomPorts(t *testing.T, s *stage.Stage) {
	choice := func() uint16 {
		t.Helper()
		s.Docker(t, "run", "-d", "--name", "random", "-p", "127.0.0.1::80", testimage.Name, "web")
		defer s.Docker(t, "rm", "-f", "random")
		return netip.MustParseAddrPort(s.Docker(t, "port", "random", "80")).Port()
	}
	last := choice()
	for port := last + 1; port <= last+9; port++ {
		l, err := s.Lab.Host.Listen("tcp", hostPort("127.0.0.1", port))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = l.Close() })
	}
	socket := fmt.Sprintf("0100007F:%04X 00000000:0000 0A", last+9)
	stage.Eventually(t, 5*time.Second, "the last of them has a placeholder", func() bool {
		out, err := os.ReadFile(fmt.Sprintf("/proc/%d/net/tcp", s.Status(t).Machine.PID))
		return err == nil && strings.Contains(string(out), socket)
	})
	if got := choice(); got != last+10 {
		t.Errorf("the port after %d, with nine busy ones, is %d, want %d", last, got, last+10)
	}
}

// Containers of one network find each other by name, over both families, and
// do not reach those of another.
func checkNetworks(t *testing.T, s *stage.Stage) {
	for _, network := range []string{"one", "other"} {
		s.Docker(t, "network", "create", network)
		t.Cleanup(func() { s.Docker(t, "network", "rm", network) })
	}
	s.Serve(t, "server", []string{"--network", "one"}, "web")
	for _, kind := range []string{"IPAddress", "GlobalIPv6Address"} {
		addr := s.Docker(t, "inspect", "-f", "{{(index .NetworkSettings.Networks \"one\")."+kind+"}}", "server")
		url := "http://" + hostPort(addr, 80) + "/"
		if got := s.Toolbox(t, []string{"--network", "one"}, "get", url); got.Outcome != testimage.OK {
			t.Errorf("%s from its own network: %+v", url, got)
		}
		if got := s.Toolbox(t, []string{"--network", "other"}, "get", url, "-timeout", "2s"); got.Outcome == testimage.OK {
			t.Errorf("%s from another network: %+v", url, got)
		}
	}
	if got := s.Toolbox(t, []string{"--network", "one"}, "get", "http://server/"); got.Outcome != testimage.OK {
		t.Errorf("by name: %+v", got)
	}
}

// A container on the host network listens on the host, and finds what listens there.
func checkHostNetwork(t *testing.T, s *stage.Stage) {
	s.Serve(t, "on-host", []string{"--network", "host"}, "web", "-addr", "127.0.0.1:8095")
	stage.Eventually(t, backWithin, "the host reaches the container", func() bool {
		_, err := stage.Fetch(t, s.Lab.Host, "127.0.0.1:8095", "/")
		return err == nil
	})
	s.Lab.StartWeb(t, s.Lab.Host, "127.0.0.1:8096")
	stage.Eventually(t, backWithin, "the container reaches the host's loopback", func() bool {
		return s.Exec(t, "on-host", "get", "http://127.0.0.1:8096/").Outcome == testimage.OK
	})
}

func checkInit(t *testing.T, s *stage.Stage) {
	for flag, want := range map[string]string{"--init=true": "docker-init", "--init=false": "cat"} {
		got := s.Docker(t, "run", "--rm", flag, "--entrypoint", "cat", testimage.Name, "/proc/1/comm")
		if got != want {
			t.Errorf("with %s process 1 is %s, want %s", flag, got, want)
		}
	}
}

// ids are the user's own and the host's number of the container's id 1.
func ids(t *testing.T, u *stage.User) (own, first int) {
	t.Helper()
	own, err := strconv.Atoi(u.Uid)
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile("/etc/subuid")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		fields := strings.Split(line, ":")
		if fields[0] == u.Username {
			if first, err = strconv.Atoi(fields[1]); err != nil {
				t.Fatal(err)
			}
			return own, first
		}
	}
	t.Fatalf("%s has no subordinate ids", u.Username)
	return 0, 0
}

// owner is who owns a file on the host.
func owner(t *testing.T, path string) int {
	t.Helper()
	info, err := os.Lstat(path)
	if err != nil {
		t.Fatal(err)
	}
	return int(info.Sys().(*syscall.Stat_t).Uid)
}

// What root in a container writes to the user's directory belongs to the user,
// what others write to subordinate ids.
func checkBindMounts(t *testing.T, s *stage.Stage) {
	own, first := ids(t, s.User)
	dir := filepath.Join(s.User.HomeDir, "work")
	run(t, s, "sh", "-c", "mkdir "+dir+" && echo mine > "+dir+"/secret && chmod 600 "+dir+"/secret")
	got := s.Docker(t, "run", "--rm", "-v", dir+":/data", "--entrypoint", "sh", testimage.Name, "-c",
		"cat /data/secret; echo x > /data/root; chmod 777 /data; stat -c %u /data/secret")
	if got != "mine\n0" {
		t.Errorf("root sees the user's file as %q", got)
	}
	s.Docker(t, "run", "--rm", "-v", dir+":/data", "-u", "1000", "--entrypoint", "touch", testimage.Name, "/data/thousand")
	s.Docker(t, "run", "--rm", "-v", "data:/data", "--entrypoint", "sh", testimage.Name, "-c",
		"mkdir /data/of-thousand && touch /data/of-thousand/file && chown -R 1000:1000 /data/of-thousand")
	for name, want := range map[string]int{"root": own, "thousand": first + 999} {
		if got := owner(t, filepath.Join(dir, name)); got != want {
			t.Errorf("the file of %s belongs to %d, want %d", name, got, want)
		}
	}
}

// run runs a program as the user and returns its output.
func run(t *testing.T, s *stage.Stage, name string, args ...string) string {
	t.Helper()
	out, err := s.Command(t.Context(), name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return strings.TrimSpace(string(out))
}

// RUN has the network that containers have, and may change owners.
func checkBuild(t *testing.T, s *stage.Stage) {
	dir := filepath.Join(s.User.HomeDir, "build")
	dockerfile := fmt.Sprintf("FROM %s\\nRUN /bin/toolbox get http://%s/ip > /result && chown 1000:1000 /result\\n", testimage.Name, hostPort(lab.WebV4, 80))
	run(t, s, "sh", "-c", "mkdir "+dir+" && printf '"+dockerfile+"' > "+dir+"/Dockerfile")
	s.Docker(t, "build", "-q", "-t", "built", dir)
	got := s.Docker(t, "run", "--rm", "--entrypoint", "sh", "built", "-c", "stat -c %u:%g /result; cat /result")
	if !strings.HasPrefix(got, "1000:1000\n") || !strings.Contains(got, lab.HostV4) {
		t.Errorf("RUN wrote %q, want the host's address %s", got, lab.HostV4)
	}
}

// checkRoot looks at processes as the host sees them.
func checkRoot(t *testing.T, s *stage.Stage) {
	own, first := ids(t, s.User)
	for user, want := range map[string]int{"0": own, "1000": first + 999} {
		name := "sleeper" + user
		s.Docker(t, "run", "-d", "--name", name, "-u", user, testimage.Name, "sleep", "1"+user+"h")
		t.Cleanup(func() { s.Docker(t, "rm", "-f", name) })
		pid := find(t, "sleep\x001"+user+"h")
		if got := owner(t, filepath.Join("/proc", strconv.Itoa(pid))); got != want {
			t.Errorf("user %s of a container is user %d on the host, want %d", user, got, want)
		}
	}
}

// find returns the process whose arguments end so.
func find(t *testing.T, arguments string) int {
	t.Helper()
	files, _ := filepath.Glob("/proc/[0-9]*/cmdline") // the pattern is right
	for _, path := range files {
		text, err := os.ReadFile(path)
		if err == nil && strings.HasSuffix(string(text), "/bin/toolbox\x00"+arguments+"\x00") {
			pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(path)))
			return pid
		}
	}
	t.Fatalf("no process %q", arguments)
	return 0
}

// A killed daemon takes nothing along, and `up` leads to a daemon again.
// checkSurvival kills and stops, with a thousand flows open.
func checkSurvival(t *testing.T, s *stage.Stage) {
	stage.ServePorts(t, s)
	stage.AnswerWithin(t, s, backWithin)
	for _, part := range []struct {
		name  string
		check func(*testing.T, *stage.Stage)
	}{
		{"helper killed", checkHelperKilled},
		{"agent, dockerd and containerd killed", checkEngineKilled},
		{"daemon stopped", checkStopped},
		{"daemon killed", checkKilled},
	} {
		t.Run(part.name, func(t *testing.T) { part.check(t, s) })
	}
}

func checkEngineKilled(t *testing.T, s *stage.Stage) {
	f := stage.OpenFlows(t, s)
	for _, program := range []string{"portolan-agent serve", "dockerd", "containerd --config"} {
		if err := syscall.Kill(s.MachineProcess(t, program), syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		f.AllGo(t)
		stage.PortsAnswer(t, s, backWithin)
		stage.AnswerWithin(t, s, 30*time.Second) // by way of the engine
	}
	f.AllGo(t)
}

func checkStopped(t *testing.T, s *stage.Stage) {
	f := stage.OpenFlows(t, s)
	daemon := s.Status(t).Daemon.PID
	if err := syscall.Kill(daemon, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	time.Sleep(3 * time.Second) // it is what the test is about
	if err := syscall.Kill(daemon, syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	stage.AnswerWithin(t, s, 3*backWithin)
	f.AllGo(t)
}

func checkKilled(t *testing.T, s *stage.Stage) {
	started := s.Docker(t, "inspect", "-f", "{{.State.StartedAt}}", "tcp0")
	f := stage.OpenFlows(t, s)
	was, killed := s.Status(t), time.Now()
	if err := syscall.Kill(was.Daemon.PID, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	f.AllEndOutside(t, killed, backWithin)
	stage.AnswerWithin(t, s, backWithin-min(time.Since(killed), backWithin))
	f.AllEnd(t, killed, backWithin)
	if now := s.Status(t); now.Daemon.PID == was.Daemon.PID || now.Machine.PID != was.Machine.PID {
		t.Errorf("processes were %+v and are %+v, want another daemon only", was, now)
	}
	if now := s.Docker(t, "inspect", "-f", "{{.State.StartedAt}}", "tcp0"); now != started {
		t.Errorf("the container started at %s, before %s", now, started)
	}
}

// Two machines of one user share nothing. The second is in swarm mode, with an
// overlay network on which containers find each other by name.
func checkSwarm(t *testing.T, s *stage.Stage) {
	s.Portolan(t, "--profile", "two", "up")
	t.Cleanup(func() { s.Portolan(t, "--profile", "two", "down", "--purge") })
	docker := func(args ...string) string {
		t.Helper()
		return s.Docker(t, append([]string{"-H", "unix://" + filepath.Join(s.RunDir, "two", "docker.sock")}, args...)...)
	}
	if images := docker("images", "-q"); images != "" {
		t.Errorf("the second machine has the images of the first: %s", images)
	}
	docker("load", "-q", "-i", filepath.Join(s.Lab.Dir, "toolbox.tar"))
	docker("swarm", "init", "--advertise-addr", "192.168.65.3", "--listen-addr", "0.0.0.0:2377")
	docker("network", "create", "-d", "overlay", "--attachable", "over")
	docker("run", "-d", "--name", "server", "--network", "over", testimage.Name, "web")
	stage.Eventually(t, 30*time.Second, "the server answers by name on the overlay", func() bool {
		out, code := s.TryDocker(t, "-H", "unix://"+filepath.Join(s.RunDir, "two", "docker.sock"),
			"run", "--rm", "--network", "over", testimage.Name, "get", "http://server/ip")
		t.Log(strings.TrimSpace(out))
		return code == 0
	})
	out := s.Docker(t, "run", "--rm", "--privileged", "-v", "/:/host", "--entrypoint", "sh", testimage.Name, "-c",
		"cd /host"+s.RunDir+" && ls; umount -l two; umount -l .; ls /host"+s.RunDir+"/two 2>&1 || true")
	if !strings.HasPrefix(out, "default\n") || !strings.Contains(out, "No such file") {
		t.Errorf("a container of the first machine sees the second one's sockets: %s", out)
	}
	if got := s.Toolbox(t, nil, "lookup", "server"); got.Outcome == testimage.OK {
		t.Errorf("the first machine knows the second one's container: %+v", got)
	}
}

// checkPurge deletes the state, in which there are files of subordinate ids
// that the user may not delete as such: those of checkBindMounts's volume.
func checkPurge(t *testing.T, s *stage.Stage) {
	volume := filepath.Join(s.StateDir, "default/engine/docker/volumes/data/_data/of-thousand")
	if out := run(t, s, "sh", "-c", "rm -rf "+volume+" 2>&1 || true"); !denied(out) {
		t.Errorf("rm deletes %s: %q", volume, out)
	}
	s.Portolan(t, "down", "--purge")
	if _, err := os.Stat(filepath.Join(s.StateDir, "default")); !os.IsNotExist(err) {
		t.Errorf("the state is left: %v", err)
	}
}
