package e2e

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/portolan-net/portolan/internal/api"
	"github.com/portolan-net/portolan/internal/doctor"
	"github.com/portolan-net/portolan/internal/lab"
	"github.com/portolan-net/portolan/internal/portolan"
	"github.com/portolan-net/portolan/internal/stage"
	"github.com/portolan-net/portolan/internal/testimage"
)

// The commands as a user types them, with a machine that runs.
func TestCommands(t *testing.T) {
	s := stage.Up(t)
	for _, c := range []struct {
		name string
		test func(*testing.T, *stage.Stage)
	}{
		{"wrong usage", checkUsage},
		{"up again", checkUpAgain},
		{"docker context", checkContext},
		{"damaged docker configuration", checkDamagedConfig},
		{"env", checkEnv},
		{"JSON", checkJSON},
		{"logs", checkLogs},
		{"version", checkVersion},
		{"doctor", checkDoctor},
		{"run", checkRun},
		{"another profile", checkProfiles},
		{"the machine's own engine", checkOwnEngine},
		{"the host's files", checkHostFiles},
		{"docker run --init", checkInit},
		{"docker build", checkBuild},
		{"docker compose", checkCompose},
		{"the engine's programs end", checkEngineEnds},
	} {
		t.Run(c.name, func(t *testing.T) { c.test(t, s) })
	}
}

// What is typed wrong says so with exit code 2, and hints.
func checkUsage(t *testing.T, s *stage.Stage) {
	t.Helper()
	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{"--profil", "x", "up"}, "--profile"},
		{[]string{"up", "--use-contex"}, "--use-context"},
		{[]string{"upp"}, `unknown command "upp"`},
		{[]string{"up", "now"}, `unexpected argument "now"`},
		{[]string{"--profile", "No Name", "up"}, "a-z, 0-9 and -"},
		{[]string{"up", "--timeout", "soon"}, "timeout"},
		{[]string{"up", "--engine", ""}, "--engine is empty"},
		{[]string{"run"}, "portolan run -- COMMAND"},
		{[]string{"logs", "--source", "nobody"}, "daemon"},
		{[]string{"env", "--shell", "csh"}, "fish"},
	} {
		out, code := s.TryPortolan(t, c.args...)
		if code != 2 || !strings.Contains(out, c.want) || !strings.Contains(out, "--help") {
			t.Errorf("portolan %q: exit code %d, want 2 and %q:\n%s", c.args, code, c.want, out)
		}
	}
}

// A second up changes nothing and says so, as do two at once.
func checkUpAgain(t *testing.T, s *stage.Stage) {
	t.Helper()
	first := s.Status(t)
	outputs := make([]string, 2)
	var both sync.WaitGroup
	for i := range outputs {
		both.Go(func() {
			out, code := tryWith(t, s, nil, s.Bin.Portolan, "up")
			if code != 0 {
				t.Errorf("exit code %d: %s", code, out)
			}
			outputs[i] = out
		})
	}
	both.Wait()
	for _, out := range outputs {
		if !strings.Contains(out, fmt.Sprintf("already running (pid %d", first.Daemon.PID)) {
			t.Errorf("up says: %s", out)
		}
	}
	if now := s.Status(t); now.Daemon.PID != first.Daemon.PID || now.Machine.PID != first.Machine.PID || now.State != api.Running {
		t.Errorf("status was %+v, is %+v", first, now)
	}
}

// docker runs the CLI without DOCKER_HOST, so that its contexts count.
func docker(t *testing.T, s *stage.Stage, args ...string) (string, int) {
	t.Helper()
	return tryWith(t, s, nil, append([]string{"env", "-u", "DOCKER_HOST", "docker"}, args...)...)
}

// The context is there, is not made the current one unless asked for, and works.
func checkContext(t *testing.T, s *stage.Stage) {
	t.Helper()
	s.Docker(t, "run", "-d", "--name", "seen", testimage.Name, "sleep", "1h")
	t.Cleanup(func() { s.Docker(t, "rm", "-f", "seen") })
	if out, code := docker(t, s, "--context", "portolan", "ps", "--format", "{{.Names}}"); code != 0 || strings.TrimSpace(out) != "seen" {
		t.Errorf("docker --context portolan ps: exit code %d: %s", code, out)
	}
	if out, _ := docker(t, s, "context", "show"); strings.TrimSpace(out) != "default" {
		t.Errorf("the current context is %s", out)
	}
	s.Portolan(t, "up", "--use-context")
	if out, code := docker(t, s, "ps", "--format", "{{.Names}}"); code != 0 || strings.TrimSpace(out) != "seen" {
		t.Errorf("docker ps with the context in use: exit code %d: %s", code, out)
	}
	if out, code := docker(t, s, "context", "use", "default"); code != 0 {
		t.Error(out)
	}
}

// A configuration of docker's that is no JSON stays as it is, and costs nothing
// but the current context.
func checkDamagedConfig(t *testing.T, s *stage.Stage) {
	t.Helper()
	path := filepath.Join(s.Lab.Dir, "docker", "config.json")
	good, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	const damaged = `{"auths": {`
	write(t, path, damaged)
	defer write(t, path, string(good))
	before := s.Status(t).Daemon.PID
	out, code := s.TryPortolan(t, "up", "--use-context")
	if code != 1 || !strings.Contains(out, path) || !strings.Contains(out, "mend the file") {
		t.Errorf("up --use-context: exit code %d: %s", code, out)
	}
	if out, code := s.TryPortolan(t, "up"); code != 0 {
		t.Errorf("up: exit code %d: %s", code, out)
	}
	if text, err := os.ReadFile(path); err != nil || string(text) != damaged {
		t.Errorf("the file is now %q, %v", text, err)
	}
	if now := s.Status(t).Daemon.PID; now != before {
		t.Errorf("the daemon was %d, is %d", before, now)
	}
}

// What env prints makes a shell's docker use the machine, with a docker of its
// own and without; compose and buildx are there for both.
func checkEnv(t *testing.T, s *stage.Stage) {
	t.Helper()
	own := filepath.Dir(copyOf(t, filepath.Join(s.Bin.Engine, "docker"))) // without plugins beside it
	for name, path := range map[string]string{
		"a docker on PATH": own + ":/usr/bin:/bin",
		"none":             "/usr/bin:/bin",
	} {
		script := `eval "$(` + s.Bin.Portolan + ` env)"; command -v docker; docker version --format 'engine {{.Server.Version}}'; docker compose version; docker buildx version`
		out, code := tryWith(t, s, []string{"-u", "DOCKER_HOST", "PATH=" + path, "SHELL=/bin/sh"}, "sh", "-c", script)
		for _, want := range []string{"engine " + s.Status(t).Engine.Version, "Docker Compose version", "github.com/docker/buildx"} {
			if code != 0 || !strings.Contains(out, want) {
				t.Errorf("%s: exit code %d: the shell lacks %q:\n%s", name, code, want, out)
			}
		}
		if found := strings.HasPrefix(out, own+"/docker\n"); found != (name != "none") {
			t.Errorf("%s: the shell's docker is %s", name, out)
		}
	}
}

// Whatever has --json prints JSON with the fields that programs read.
func checkJSON(t *testing.T, s *stage.Stage) {
	t.Helper()
	for _, c := range []struct {
		args  []string
		field string
	}{
		{[]string{"up"}, "daemon"}, {[]string{"status"}, "engine"}, {[]string{"env"}, "DOCKER_HOST"}, {[]string{"version"}, "agent"},
		{[]string{"doctor", "--target", hostPort(lab.WebV4, 80)}, "ok"}, {[]string{"logs", "-n", "5"}, "source"},
	} {
		decoder := json.NewDecoder(strings.NewReader(s.Portolan(t, append(c.args, "--json")...)))
		for documents := 0; ; documents++ {
			var document map[string]any
			if err := decoder.Decode(&document); err != nil {
				if documents == 0 || err.Error() != "EOF" {
					t.Errorf("portolan %q --json: document %d: %v", c.args, documents+1, err)
				}
				break
			}
			if _, found := document[c.field]; !found {
				t.Errorf("portolan %q --json lacks %s: %v", c.args, c.field, document)
			}
		}
	}
}

// The logs of all parts are there, and each by itself.
func checkLogs(t *testing.T, s *stage.Stage) {
	t.Helper()
	all := s.Portolan(t, "logs", "-n", "-1")
	for source, want := range map[string]string{
		"daemon": "agent connected", "agent": "engine program started", "engine": "Daemon has completed initialization", "containerd": "containerd successfully booted",
	} {
		own := s.Portolan(t, "logs", "-n", "-1", "--source", source)
		if !strings.Contains(own, want) {
			t.Errorf("the log of %s lacks %q:\n%s", source, want, own)
		}
		for line := range strings.Lines(own) {
			if !strings.HasPrefix(line, source+" ") {
				t.Fatalf("the log of %s has the line %s", source, line)
			}
		}
		if !strings.Contains(all, want) {
			t.Errorf("all logs lack %q", want)
		}
	}
	if got := s.Portolan(t, "logs", "-n", "3"); strings.Count(got, "\n") != 2 {
		t.Errorf("three lines are %q", got)
	}
}

func checkVersion(t *testing.T, s *stage.Stage) {
	t.Helper()
	out, engine := s.Portolan(t, "version"), s.Docker(t, "version", "--format", "{{.Server.Version}}")
	for _, want := range []string{"portolan", "daemon", "agent", "engine  ", engine} {
		if !strings.Contains(out, want) {
			t.Errorf("version lacks %q:\n%s", want, out)
		}
	}
}

// In the lab there is nothing to complain about; what depends on the computer
// are the limits. An engine that is not there is a failure.
func checkDoctor(t *testing.T, s *stage.Stage) {
	t.Helper()
	var report doctor.Report
	text := s.Portolan(t, "doctor", "--json", "--target", hostPort(lab.WebV4, 80))
	if err := json.Unmarshal([]byte(text), &report); err != nil || !report.OK {
		t.Errorf("doctor: %v\n%s", err, text)
	}
	seen := map[string]string{}
	for _, f := range report.Findings {
		seen[f.Check] = f.Detail
		if f.Result != doctor.OK && f.Check != "descriptors" {
			t.Errorf("doctor: %+v", f)
		}
	}
	machine := portolan.DefaultLink().Machine().V4.String()
	if want := hostPort(lab.WebV4, 80) + ", from " + machine; !strings.HasPrefix(seen["outbound, machine"], want) {
		t.Errorf("the connection out of the machine is %q, want %q", seen["outbound, machine"], want)
	}
	out, code := s.TryPortolan(t, "doctor", "--engine", "/nowhere/dockerd", "--target", hostPort(lab.WebV4, 80))
	if code != 1 || !strings.Contains(out, "FAIL  engine") || !strings.Contains(out, "->") {
		t.Errorf("doctor without an engine: exit code %d:\n%s", code, out)
	}
}

// run gives the command's exit code; a machine that ran before stays, one of its
// own goes with the command.
func checkRun(t *testing.T, s *stage.Stage) {
	t.Helper()
	before := s.Status(t).Daemon.PID
	for _, profile := range []string{"default", "ci"} {
		t.Run(profile, func(t *testing.T) {
			for _, c := range []struct {
				command []string
				code    int
				want    string
			}{
				{[]string{"docker", "version", "--format", "server {{.Server.Version}}"}, 0, "server "},
				{[]string{"sh", "-c", "exit 7"}, 7, ""},
				{[]string{"/does/not/exist"}, 127, "/does/not/exist"},
				{[]string{"sh", "-c", "kill -TERM $$"}, 143, ""},
			} {
				if profile != "default" && c.code > 0 && c.code != 7 {
					continue // the exit codes are the same; a machine takes seconds
				}
				out, code := tryWith(t, s, nil, append([]string{s.Bin.Portolan, "--profile", profile, "run", "--"}, c.command...)...)
				if code != c.code || !strings.Contains(out, c.want) {
					t.Errorf("run -- %q: exit code %d, want %d and %q:\n%s", c.command, code, c.code, c.want, out)
				}
			}
		})
	}
	if now := s.Status(t).Daemon.PID; now != before {
		t.Errorf("the machine that ran before had the daemon %d, now %d", before, now)
	}
	if state := profileStatus(t, s, "ci").State; state != api.Stopped {
		t.Errorf("the machine of the command is %s after it", state)
	}
}

func profileStatus(t *testing.T, s *stage.Stage, profile string) api.Status {
	t.Helper()
	var status api.Status
	text := s.Portolan(t, "--profile", profile, "status", "--json")
	if err := json.Unmarshal([]byte(text), &status); err != nil {
		t.Fatalf("read status: %v\n%s", err, text)
	}
	return status
}

// Two profiles share nothing, and one goes without the other.
func checkProfiles(t *testing.T, s *stage.Stage) {
	t.Helper()
	s.Serve(t, "web", []string{"-p", "8001:80"}, "web", "-name", "one")
	before := remember(t, s)
	var both sync.WaitGroup
	for range 2 { // at once: one starts it, the other waits
		both.Go(func() {
			if out, code := tryWith(t, s, nil, s.Bin.Portolan, "--profile", "two", "up"); code != 0 {
				t.Errorf("up: exit code %d: %s", code, out)
			}
		})
	}
	both.Wait()
	down := sync.OnceFunc(func() { downWithDamagedConfig(t, s, "two") })
	t.Cleanup(down)
	two := profileStatus(t, s, "two")
	if two.State != api.Running || two.Daemon.PID == s.Status(t).Daemon.PID {
		t.Fatalf("status of two: %+v", two)
	}
	inTwo := func(args ...string) string {
		out, code := docker(t, s, append([]string{"--context", "portolan-two"}, args...)...)
		if code != 0 {
			t.Fatalf("docker %q: exit code %d: %s", args, code, out)
		}
		return strings.TrimSpace(out)
	}
	if got := inTwo("images", "-q"); got != "" {
		t.Errorf("two has the images %s", got)
	}
	inTwo("load", "-q", "-i", filepath.Join(s.Lab.Dir, "toolbox.tar"))
	inTwo("run", "-d", "--name", "web", "-p", "8002:80", testimage.Name, "web", "-name", "two")
	for port, name := range map[uint16]string{8001: "one", 8002: "two"} {
		stage.Eventually(t, 10*time.Second, name+" answers", func() bool {
			body, err := stage.Fetch(t, s.Lab.Host, hostPort("127.0.0.1", port), "/")
			return err == nil && strings.Contains(body, `"name":"`+name+`"`)
		})
	}
	if out, code := docker(t, s, "--context", "portolan-two", "run", "--rm", "-p", "8001:80", testimage.Name, "true"); code == 0 || !strings.Contains(out, "address already in use") {
		t.Errorf("two publishes a port of one: exit code %d: %s", code, out)
	}
	before.checkNetwork(t)
	down()
	if body, err := stage.Fetch(t, s.Lab.Host, "127.0.0.1:8001", "/"); err != nil || !strings.Contains(body, `"name":"one"`) {
		t.Errorf("one after the end of two: %s, %v", body, err)
	}
	before.check(t)
}

// downWithDamagedConfig stops a profile while docker's configuration is no JSON:
// the machine goes, the context once the file is mended.
func downWithDamagedConfig(t *testing.T, s *stage.Stage, profile string) {
	t.Helper()
	path := filepath.Join(s.Lab.Dir, "docker", "config.json")
	good, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	write(t, path, "{")
	out, code := s.TryPortolan(t, "--profile", profile, "down")
	write(t, path, string(good))
	if code != 1 || !strings.Contains(out, "is stopped, but its docker context is left") || !strings.Contains(out, "mend the file") {
		t.Errorf("down with a damaged docker configuration: exit code %d: %s", code, out)
	}
	if state := profileStatus(t, s, profile).State; state != api.Stopped {
		t.Errorf("after down, %s is %s", profile, state)
	}
	s.Portolan(t, "--profile", profile, "down")
}

// The engine's socket in a container is the machine's own engine's, by its usual
// path and by the one that DOCKER_HOST names.
func checkOwnEngine(t *testing.T, s *stage.Stage) {
	t.Helper()
	for _, socket := range []string{"/var/run/docker.sock", filepath.Join(s.RunDir, "default", "docker.sock")} {
		got := s.Docker(t, "run", "--rm", "--name", "me", "-v", socket+":/var/run/docker.sock",
			"-v", filepath.Join(s.Bin.Engine, "docker")+":/docker:ro", "--entrypoint", "/docker", testimage.Name,
			"-H", "unix:///var/run/docker.sock", "ps", "--all", "--format", "{{.Names}}") // "created" for a moment yet
		if got != "me" {
			t.Errorf("by %s the container sees the containers %q, want itself", socket, got)
		}
	}
}

// shell runs a script in a new container.
func shell(t *testing.T, s *stage.Stage, flags []string, script string) string {
	t.Helper()
	return s.Docker(t, append(append([]string{"run", "--rm"}, flags...), "--entrypoint", "/bin/sh", testimage.Name, "-c", script)...)
}

// Bind mounts are the host's own files, wherever they are and whenever they came.
func checkHostFiles(t *testing.T, s *stage.Stage) {
	t.Helper()
	user := filepath.Join("/run/user", fmt.Sprintf("portolan-test-%d", os.Getpid()))
	late := fmt.Sprintf("/run/portolan-test-%d", os.Getpid()) // a directory that /run did not have before
	for _, dir := range []string{user, late} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = os.RemoveAll(dir) })
	}
	work := filepath.Join(s.Lab.Dir, "work")
	if err := os.Mkdir(work, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{work, t.TempDir(), user, late} {
		write(t, filepath.Join(dir, "from-host"), "host")
		if got := shell(t, s, []string{"-v", dir + ":/x"}, "cat /x/from-host; echo container > /x/from-container"); got != "host" {
			t.Errorf("a container reads %q in %s", got, dir)
		}
		if text, err := os.ReadFile(filepath.Join(dir, "from-container")); err != nil || string(text) != "container\n" {
			t.Errorf("the host reads %q, %v in %s", text, err, dir)
		}
		// A single file, made after up.
		file := filepath.Join(dir, "one")
		write(t, file, "before")
		if got := shell(t, s, []string{"-v", file + ":/one"}, "cat /one; echo after > /one"); got != "before" {
			t.Errorf("a container reads %q in %s", got, file)
		}
		if text, err := os.ReadFile(file); err != nil || string(text) != "after\n" {
			t.Errorf("the host reads %q, %v in %s", text, err, file)
		}
		checkSocket(t, s, filepath.Join(dir, "socket"))
	}
}

// checkSocket reaches a unix socket of the host's from a container: a server
// there is asked by the docker CLI.
func checkSocket(t *testing.T, s *stage.Stage, path string) {
	t.Helper()
	listener, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	var asked atomic.Int32
	server := &http.Server{ReadHeaderTimeout: time.Second, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		w.Header().Set("Content-Type", "application/json")
		_, _ = fmt.Fprintln(w, "[]")
	})}
	go func() { _ = server.Serve(listener) }()
	t.Cleanup(func() { _ = server.Close() })
	_, _ = s.TryDocker(t, "run", "--rm", "-v", path+":/socket", "-v", filepath.Join(s.Bin.Engine, "docker")+":/docker:ro",
		"--entrypoint", "/docker", testimage.Name, "-H", "unix:///socket", "ps")
	if asked.Load() == 0 {
		t.Errorf("nobody came to the socket %s", path)
	}
}

// tini is PID 1, and reaps.
func checkInit(t *testing.T, s *stage.Stage) {
	t.Helper()
	got := shell(t, s, []string{"--init"}, "readlink /proc/1/exe; /proc/1/exe --version; echo pid $$")
	if !strings.HasPrefix(got, "/sbin/docker-init\ntini version") || strings.HasSuffix(got, "pid 1") {
		t.Errorf("with --init: %s", got)
	}
}

// Images are built, with the network where a step wants it.
func checkBuild(t *testing.T, s *stage.Stage) {
	t.Helper()
	dir := t.TempDir()
	write(t, filepath.Join(dir, "hello"), "hello from the context\n")
	for name, c := range map[string]struct{ dockerfile, want string }{
		"scratch": {"FROM scratch\nCOPY hello /hello\n", ""},
		"steps": {
			"FROM " + testimage.Name + "\nCOPY hello /hello\nRUN cat /hello >/seen && /bin/toolbox get http://" + lab.WebV4 + "/ip >/ip\n" +
				"ENTRYPOINT [\"/bin/sh\", \"-c\", \"cat /seen /ip\"]\n", lab.HostV4,
		},
	} {
		t.Run(name, func(t *testing.T) {
			write(t, filepath.Join(dir, "Dockerfile"), c.dockerfile)
			out, code := s.TryDocker(t, "build", "-t", "built:"+name, dir)
			if code != 0 || strings.Contains(out, "DEPRECATED") { // what docker says when it finds no buildx
				t.Fatalf("docker build: exit code %d: %s", code, out)
			}
			t.Cleanup(func() { s.Docker(t, "rmi", "built:"+name) })
			if c.want == "" {
				return
			}
			if got := s.Docker(t, "run", "--rm", "built:"+name); !strings.HasPrefix(got, "hello from the context") || !strings.Contains(got, c.want) {
				t.Errorf("the image prints %s", got)
			}
		})
	}
}

// Compose starts services that see each other, and publishes.
func checkCompose(t *testing.T, s *stage.Stage) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "compose.yaml")
	write(t, path, `
name: shop
services:
  web:
    image: `+testimage.Name+`
    command: web -name shop
    ports: ["8005:80"]
  asker:
    image: `+testimage.Name+`
    command: sleep 1h
`)
	s.Docker(t, "compose", "-f", path, "up", "-d", "--quiet-pull")
	down := sync.OnceFunc(func() { s.Docker(t, "compose", "-f", path, "down", "-t", "1") })
	t.Cleanup(down)
	stage.Eventually(t, 10*time.Second, "the published port answers", func() bool {
		body, err := stage.Fetch(t, s.Lab.Host, "127.0.0.1:8005", "/")
		return err == nil && strings.Contains(body, `"name":"shop"`)
	})
	if got := s.Docker(t, "compose", "-f", path, "exec", "asker", "/bin/toolbox", "get", "http://web/"); !strings.Contains(got, "shop") {
		t.Errorf("one service asks the other: %s", got)
	}
	down()
	if got := s.Docker(t, "ps", "-aq", "--filter", "label=com.docker.compose.project=shop"); got != "" {
		t.Errorf("compose down leaves the containers %s", got)
	}
	if _, err := stage.Fetch(t, s.Lab.Host, "127.0.0.1:8005", "/"); err == nil {
		t.Error("the port of compose answers after compose down")
	}
}

// dockerd and containerd come back when they end; status tells.
func checkEngineEnds(t *testing.T, s *stage.Stage) {
	t.Helper()
	s.Serve(t, "web", []string{"-p", "8006:80"}, "web")
	for i, program := range []string{"dockerd", "containerd"} {
		before := s.Status(t).Engine.Restarts
		init := fmt.Sprint(s.Status(t).Machine.PID)
		var out bytes.Buffer
		cmd := s.Command(t.Context(), "nsenter", "--target", init, "--mount", "--pid", "sh", "-c", "kill -9 $(cat /run/portolan-agent/"+program+".pid)")
		cmd.Stdout, cmd.Stderr = &out, &out
		if err := cmd.Run(); err != nil {
			t.Fatalf("kill %s: %v: %s", program, err, &out)
		}
		var now api.Status
		stage.Eventually(t, 30*time.Second, program+" is back", func() bool {
			now = s.Status(t)
			return now.State == api.Running && now.Engine.Ready && now.Engine.Restarts > before
		})
		if !strings.HasPrefix(now.Engine.LastExit, program+" at ") || !strings.Contains(now.Engine.LastExit, "killed") {
			t.Errorf("status tells %q of the end of %s", now.Engine.LastExit, program)
		}
		if text := s.Portolan(t, "status"); !strings.Contains(text, "restarted") || !strings.Contains(text, now.Engine.LastExit) {
			t.Errorf("after end %d, status prints:\n%s", i+1, text)
		}
		if _, err := stage.Fetch(t, s.Lab.Host, "127.0.0.1:8006", "/"); err != nil {
			t.Errorf("the published port after the end of %s: %v", program, err)
		}
		// dockerd finds a new containerd some time after that answers.
		stage.Eventually(t, 60*time.Second, "the engine reaches the container", func() bool {
			_, code := s.TryDocker(t, "exec", "web", "/bin/toolbox", "true")
			return code == 0
		})
	}
}
