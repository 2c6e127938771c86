package hostservice

import (
	"bufio"
	"bytes"
	"encoding/json"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/portolan-net/portolan/internal/api"
	"github.com/portolan-net/portolan/internal/lab"
	"github.com/portolan-net/portolan/internal/stage"
)

// greet answers every line on l with the name and the line.
func greet(t *testing.T, l net.Listener, name string) {
	t.Helper()
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				for lines := bufio.NewScanner(conn); lines.Scan(); {
					_, _ = io.WriteString(conn, name+" "+lines.Text()+"\n")
				}
			}()
		}
	}()
}

// listen serves a socket on the host.
func listen(t *testing.T, s *stage.Stage, network, addr, name string) {
	t.Helper()
	l, err := s.Lab.Host.Listen(network, addr)
	if err != nil {
		t.Fatal(err)
	}
	greet(t, l, name)
}

// forwards is what portolan forward ls says.
func forwards(t *testing.T, s *stage.Stage) []api.Forward {
	t.Helper()
	var list []api.Forward
	if err := json.Unmarshal([]byte(s.Portolan(t, "forward", "ls", "--json")), &list); err != nil {
		t.Fatal(err)
	}
	return list
}

// says asks a socket from within a container.
func says(t *testing.T, s *stage.Stage, want string, args ...string) {
	t.Helper()
	out, _ := s.TryDocker(t, append([]string{"exec", args[0], "dial"}, args[1:]...)...)
	if strings.TrimSpace(out) != want {
		t.Errorf("%v: %q, want %q", args, out, want)
	}
}

// asks does the same from the host.
func asks(t *testing.T, s *stage.Stage, network, addr, want string) {
	t.Helper()
	conn, err := s.Lab.Host.Dial(t.Context(), network, addr)
	got := ""
	if err == nil {
		defer conn.Close()
		_, _ = io.WriteString(conn, "hello\n")
		got, err = bufio.NewReader(conn).ReadString('\n')
	}
	if strings.TrimSpace(got) != want {
		t.Errorf("%s: %q, %v, want %q", addr, got, err, want)
	}
}

const dbSocket = "/run/host-services/db.sock"

func TestForwards(t *testing.T) {
	s := stage.New(t)
	target := filepath.Join(s.Lab.Dir, "db.sock")
	listen(t, s, "unix", target, "db")
	listen(t, s, "tcp", "127.0.0.1:7001", "tcp")
	s.Portolan(t, "up")
	loads(t, s)

	s.Portolan(t, "forward", "add", "unix:db.sock", "unix:"+target, "--from", "machine")
	s.Portolan(t, "forward", "add", "tcp:127.0.0.1:7000", "tcp:127.0.0.1:7001", "--from", "machine")
	s.Portolan(t, "forward", "add", "unix:/run/some/deep/tcp.sock", "tcp:127.0.0.1:7001", "--from", "machine")
	s.Portolan(t, "forward", "add", "tcp:127.0.0.1:7002", "unix:"+target, "--from", "machine")
	begin := func() {
		t.Helper()
		s.Docker(t, "run", "-d", "--stop-timeout", "1", "--name", "user", "-u", "1000", "--mount", "type=bind,src="+dbSocket+",target=/db.sock", "-v", "/run/some/deep:/deep", sshImage, "/bin/sleep", "1000000")
		s.Docker(t, "run", "-d", "--stop-timeout", "1", "--name", "hostnet", "--network", "host", sshImage, "/bin/sleep", "1000000")
	}
	begin()
	fromMachine := func(t *testing.T) {
		t.Helper()
		says(t, s, "db GET /_ping HTTP/1.0", "user", "unix", "/db.sock")
		says(t, s, "tcp GET /_ping HTTP/1.0", "hostnet", "tcp", "127.0.0.1:7000")
		says(t, s, "tcp GET /_ping HTTP/1.0", "user", "unix", "/deep/tcp.sock")
		says(t, s, "db GET /_ping HTTP/1.0", "hostnet", "tcp", "127.0.0.1:7002")
	}
	t.Run("from the machine", fromMachine)

	// A server in the machine: of its loopback, and of a socket that a container made.
	s.Serve(t, "inside", []string{"--network", "host"}, "echo-tcp", "-addr", ":7100")
	s.Portolan(t, "forward", "add", "tcp:127.0.0.1:7101", "tcp:127.0.0.1:7100", "--from", "host")
	s.Portolan(t, "forward", "add", "unix:inside.sock", "tcp:127.0.0.1:7100", "--from", "host")
	s.Docker(t, "run", "-d", "--stop-timeout", "1", "-v", "/run/made:/made", sshImage, "dial", "echo", "/made/echo.sock")
	s.Portolan(t, "forward", "add", "tcp:127.0.0.1:7102", "unix:/run/made/echo.sock", "--from", "host")
	anywhere := filepath.Join(s.Lab.Dir, "anywhere", "echo.sock")
	if out, code := s.TryPortolan(t, "forward", "add", "unix:"+anywhere, "unix:/run/made/echo.sock", "--from", "host"); code != 1 || !strings.Contains(out, "no such file or directory") {
		t.Errorf("a socket in no directory: exit code %d: %s", code, out)
	}
	if err := os.Mkdir(filepath.Dir(anywhere), 0o700); err != nil {
		t.Fatal(err)
	}
	s.Portolan(t, "forward", "add", "unix:"+anywhere, "unix:/run/made/echo.sock", "--from", "host")
	const count = 8
	onHost := filepath.Join(s.RunDir, "default", "forward", "inside.sock")
	fromHost := func(t *testing.T) {
		t.Helper()
		asks(t, s, "tcp", "127.0.0.1:7101", "hello")
		asks(t, s, "unix", onHost, "hello")
		asks(t, s, "tcp", "127.0.0.1:7102", "hello")
		asks(t, s, "unix", anywhere, "hello")
	}
	t.Run("from the host", fromHost)
	t.Run("not from the LAN", func(t *testing.T) {
		if conn, err := s.Lab.Neighbour.Dial(t.Context(), "tcp", lab.HostV4+":7101"); err == nil {
			_ = conn.Close()
			t.Error("the neighbour reaches a forward")
		}
	})
	t.Run("listed", func(t *testing.T) {
		list := forwards(t, s)
		want := api.Forward{From: "machine", Listen: "unix:" + dbSocket, To: "unix:" + target}
		if len(list) != count || list[0] != want {
			t.Errorf("listed: %+v", list)
		}
		if out := s.Portolan(t, "forward", "ls"); !strings.Contains(out, "unix:"+onHost) {
			t.Errorf("listed: %s", out)
		}
	})
	t.Run("refused", func(t *testing.T) { checkRefusals(t, s, onHost) })
	t.Run("an engine on TCP is refused", func(t *testing.T) { checkEngineOnTCP(t, s) })
	t.Run("daemon killed, and the file bad", func(t *testing.T) {
		file := filepath.Join(s.StateDir, "default", "forwards.json")
		good, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		write(t, file, `[{"from": "machine", "listen": "tcp:0.0.0.0:80"}]`)
		pid := s.Status(t).Daemon.PID
		kill(t, pid)
		stage.Eventually(t, 3*soon, "another daemon listens", func() bool {
			if now := s.Status(t).Daemon.PID; now == 0 || now == pid {
				return false
			}
			conn, err := s.Lab.Host.Dial(t.Context(), "unix", onHost)
			if err == nil {
				_ = conn.Close()
			}
			return err == nil
		})
		fromHost(t)
		fromMachine(t)
		wrong := file + ": forward 1: "
		if status := s.Status(t); !strings.Contains(strings.Join(status.Problems, "\n"), wrong) {
			t.Errorf("status does not name the bad file: %v", status.Problems)
		}
		if out, code := s.TryPortolan(t, "forward", "ls"); code != 0 || !strings.Contains(out, wrong) || !strings.Contains(out, dbSocket) || len(forwards(t, s)) != count {
			t.Errorf("forward ls does not name the bad file, or what is in force: exit code %d: %s", code, out)
		}
		if out, code := s.TryPortolan(t, "forward", "rm", "unix:db.sock", "--from", "machine"); code != 1 || !strings.Contains(out, wrong) {
			t.Errorf("a forward is removed from a bad file: exit code %d: %s", code, out)
		}
		write(t, file, string(good))
		s.Portolan(t, "forward", "add", "unix:new.sock", "tcp:127.0.0.1:7001", "--from", "machine")
		s.Portolan(t, "forward", "rm", "unix:new.sock", "--from", "machine")
		if status := s.Status(t); strings.Contains(strings.Join(status.Problems, "\n"), file) || len(forwards(t, s)) != count {
			t.Errorf("the repaired file: %v, %v", status.Problems, forwards(t, s))
		}
	})
	t.Run("agent killed", func(t *testing.T) {
		pid := s.MachineProcess(t, "portolan-agent serve")
		kill(t, pid)
		stage.Eventually(t, soon, "another one runs", func() bool { return s.MachineProcess(t, "portolan-agent serve") != pid })
		fromMachine(t)
		fromHost(t)
	})
	t.Run("removed", func(t *testing.T) {
		s.Portolan(t, "forward", "rm", "unix:db.sock", "--from", "machine")
		says(t, s, "dial unix /db.sock: connect: connection refused", "user", "unix", "/db.sock")
		if out, code := s.TryPortolan(t, "forward", "rm", "unix:db.sock", "--from", "machine"); code != 1 || !strings.Contains(out, "no such forward") {
			t.Errorf("removed twice: exit code %d: %s", code, out)
		}
		s.Portolan(t, "forward", "add", "unix:db.sock", "unix:"+target, "--from", "machine")
		s.Portolan(t, "forward", "rm", "unix:"+anywhere, "--from", "host")
		if _, err := os.Lstat(anywhere); err == nil {
			t.Errorf("%s is left", anywhere)
		}
		s.Portolan(t, "forward", "add", "unix:"+anywhere, "unix:/run/made/echo.sock", "--from", "host")
		s.Portolan(t, "forward", "rm", "unix:/run/some/deep/tcp.sock", "--from", "machine")
		says(t, s, "dial unix /deep/tcp.sock: connect: no such file or directory", "user", "unix", "/deep/tcp.sock")
		s.Portolan(t, "forward", "add", "unix:/run/some/deep/tcp.sock", "tcp:127.0.0.1:7001", "--from", "machine")
	})
	t.Run("down and up", func(t *testing.T) {
		s.Docker(t, "rm", "-f", "user", "hostnet")
		s.Portolan(t, "down")
		for _, path := range []string{filepath.Dir(onHost), anywhere} {
			if _, err := os.Lstat(path); err == nil {
				t.Errorf("down leaves %s", path)
			}
		}
		s.Portolan(t, "up")
		if info, err := os.Lstat(anywhere); err != nil || info.Mode() != os.ModeSocket|0o600 {
			t.Errorf("after up: %v, %v", info, err)
		}
		if list := forwards(t, s); len(list) != count {
			t.Errorf("after up: %+v", list)
		}
		begin()
		fromMachine(t)
	})
	t.Run("the loopback closed", func(t *testing.T) {
		s.Portolan(t, "settings", "set", "portolan.hostLoopback", "false")
		says(t, s, "EOF", "hostnet", "tcp", "127.0.0.1:7000")
		says(t, s, "db GET /_ping HTTP/1.0", "user", "unix", "/db.sock")
	})
	t.Run("all killed, and down", func(t *testing.T) {
		for _, pid := range family(t, s.Status(t).Daemon.PID) {
			kill(t, pid)
		}
		if _, err := os.Lstat(anywhere); err != nil {
			t.Fatalf("nothing is left to remove: %v", err)
		}
		s.Portolan(t, "down")
		if _, err := os.Lstat(anywhere); err == nil {
			t.Errorf("down leaves %s", anywhere)
		}
		s.Portolan(t, "up")
		if list := forwards(t, s); len(list) != count {
			t.Errorf("after up: %+v", list)
		}
	})
}

// family are the keeper that would start the daemon again, the daemon, and its
// children, of which the deputy would clean up.
func family(t *testing.T, daemon int) []int {
	t.Helper()
	parent := func(pid int) int {
		text, _ := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "stat")) // it may have ended
		fields := strings.Fields(string(text[bytes.LastIndexByte(text, ')')+1:]))
		if len(fields) < 2 {
			return 0
		}
		ppid, _ := strconv.Atoi(fields[1])
		return ppid
	}
	found := []int{parent(daemon)}
	if command, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(found[0]), "cmdline")); err != nil || !strings.Contains(string(command), "portolan") {
		t.Fatalf("the daemon's parent is no keeper: %q, %v", command, err)
	}
	all, _ := filepath.Glob("/proc/[0-9]*")
	for _, path := range all {
		pid, _ := strconv.Atoi(filepath.Base(path))
		command, _ := os.ReadFile(filepath.Join(path, "cmdline"))
		if parent(pid) == daemon && strings.Contains(string(command), "\x00deputy") {
			found = append(found, pid)
		}
	}
	return append(found, daemon)
}

// checkRefusals tries what would hand an engine or Portolan to containers, and
// what is wrong otherwise: nothing of it is listed.
func checkRefusals(t *testing.T, s *stage.Stage, onHost string) {
	before := len(forwards(t, s))
	run := filepath.Join(s.RunDir, "default")
	place := func(name string) string { return filepath.Join(s.Lab.Dir, name) }
	for _, err := range []error{
		os.Symlink(filepath.Join(run, "docker.sock"), place("link.sock")),
		os.Symlink(run, place("dirlink")),
		os.Link(filepath.Join(run, "portolan.sock"), place("hard.sock")),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	s.Docker(t, "exec", "-u", "0", "user", "/bin/busybox", "ln", "-s", "/etc", "/deep/link")
	const rules = "rules an engine or Portolan"
	for _, c := range []struct {
		from, listen, to, want string
		code                   int
	}{
		{"machine", "unix:x.sock", "unix:" + filepath.Join(run, "docker.sock"), rules, 1},
		{"machine", "unix:x.sock", "unix:" + filepath.Join(run, "portolan.sock"), rules, 1},
		{"machine", "unix:x.sock", "unix:" + filepath.Join(run, "machine", "engine.sock"), rules, 1},
		{"machine", "unix:x.sock", "unix:" + onHost, rules, 1},
		{"machine", "unix:x.sock", "unix:/var/run/docker.sock", rules, 1},
		{"machine", "unix:x.sock", "unix:/run/containerd/containerd.sock", rules, 1},
		{"machine", "unix:x.sock", "unix:" + place("link.sock"), rules, 1},
		{"machine", "unix:x.sock", "unix:" + place("dirlink") + "/docker.sock", rules, 1},
		{"machine", "unix:x.sock", "unix:" + place("hard.sock"), rules, 1},
		{"host", "tcp:127.0.0.1:7200", "unix:/run/docker.sock", rules, 1},
		{"host", "unix:x.sock", "unix:/var/run/docker.sock", rules, 1},
		{"host", "unix:x.sock", "unix:/run/portolan/agent.sock", rules, 1},
		{"host", "unix:x.sock", "unix:/run/containerd/containerd.sock", rules, 1},
		{"host", "tcp:0.0.0.0:7200", "tcp:127.0.0.1:7100", "127.0.0.1", 1},
		{"host", "tcp:127.0.0.1:7001", "tcp:127.0.0.1:7100", "address already in use", 1},
		{"host", "tcp:127.0.0.1:7001", "tcp:127.0.0.1:7000", "without end", 1},
		{"host", "tcp:127.0.0.1:7200", "tcp:192.168.65.254:7200", "without end", 1},
		{"machine", "tcp:192.168.65.3:7200", "tcp:127.0.0.1:7001", "127.0.0.1", 1},
		{"machine", "tcp:127.0.0.1:7200", "tcp:127.0.0.1:5399", "names of containers", 1},
		{"machine", "tcp:127.0.0.1:7200", "tcp:127.0.0.1:2375", rules, 1},
		{"host", "tcp:127.0.0.1:7200", "tcp:127.0.0.1:2376", rules, 1},
		{"machine", "unix:/etc/x.sock", "tcp:127.0.0.1:7001", "below /run", 1},
		{"machine", "unix:/run/docker/x.sock", "tcp:127.0.0.1:7001", "place of an engine's", 1},
		{"machine", "unix:/run/systemd/x.sock", "tcp:127.0.0.1:7001", "it is the host's", 1},
		{"machine", "unix:/run/some/deep/link/x.sock", "tcp:127.0.0.1:7001", "symbolic links", 1},
		{"host", "unix:" + filepath.Join(run, "machine", "x.sock"), "tcp:127.0.0.1:7100", "place of an engine's", 1},
		{"host", "unix:" + place("dirlink") + "/x.sock", "tcp:127.0.0.1:7100", "place of an engine's", 1},
		{"host", "unix:" + place("hard.sock"), "tcp:127.0.0.1:7100", "something is there already", 1},
		{"machine", "unix:ssh-auth.sock", "tcp:127.0.0.1:7001", "ssh-agent use", 1},
		{"machine", "unix:db.sock", "tcp:127.0.0.1:7001", "already", 1},
		{"machine", "db.sock", "tcp:127.0.0.1:7001", "unix:PATH", 2},
		{"machine", "unix:x.sock", "tcp:db:7001", "tcp:127.0.0.1:5432", 2},
		{"here", "unix:x.sock", "tcp:127.0.0.1:7001", "host or machine", 2},
	} {
		out, code := s.TryPortolan(t, "forward", "add", c.listen, c.to, "--from", c.from)
		if code != c.code || !strings.Contains(out, c.want) {
			t.Errorf("from %s: %s %s: exit code %d: %s; want %d, %q", c.from, c.listen, c.to, code, out, c.code, c.want)
		}
	}
	if list := forwards(t, s); len(list) != before {
		t.Errorf("listed: %+v", list)
	}
	// A socket that becomes an engine's later is refused then.
	later := place("later.sock")
	s.Portolan(t, "forward", "add", "unix:later.sock", "unix:"+later, "--from", "machine")
	if err := os.Symlink(filepath.Join(run, "docker.sock"), later); err != nil {
		t.Fatal(err)
	}
	out, _ := s.TryDocker(t, "run", "--rm", "--mount", "type=bind,src=/run/host-services/later.sock,target=/later.sock", sshImage,
		"dial", "unix", "/later.sock")
	if strings.TrimSpace(out) != "EOF" {
		t.Errorf("the engine answers a container: %s", out)
	}
	s.Portolan(t, "forward", "rm", "unix:later.sock", "--from", "machine")
}

// checkEngineOnTCP has the engine on a port that nobody knows.
func checkEngineOnTCP(t *testing.T, s *stage.Stage) {
	l, err := s.Lab.Host.Listen("tcp", "127.0.0.1:7300")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	engine := filepath.Join(s.RunDir, "default", "docker.sock")
	go func() {
		for {
			client, err := l.Accept()
			if err != nil {
				return
			}
			conn, err := s.Lab.Host.Dial(t.Context(), "unix", engine)
			if err != nil {
				_ = client.Close()
				continue
			}
			go func() { _, _ = io.Copy(conn, client) }()
			go func() {
				_, _ = io.Copy(client, conn)
				_, _ = client.Close(), conn.Close()
			}()
		}
	}()
	out, code := s.TryPortolan(t, "forward", "add", "tcp:127.0.0.1:7301", "tcp:127.0.0.1:7300", "--from", "machine")
	if code != 1 || !strings.Contains(out, "rules an engine or Portolan") {
		t.Errorf("the engine on TCP: exit code %d: %s", code, out)
	}
}
