package hostservice

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/portolan-net/portolan/internal/api"
	"github.com/portolan-net/portolan/internal/stage"
)

// kill ends a process as a crash would.
func kill(t *testing.T, pid int) {
	t.Helper()
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
}

// status is what portolan ssh-agent says.
func status(t *testing.T, s *stage.Stage) api.SSHAgent {
	t.Helper()
	var a api.SSHAgent
	if err := json.Unmarshal([]byte(s.Portolan(t, "ssh-agent", "--json")), &a); err != nil {
		t.Fatal(err)
	}
	return a
}

// All of it, on one machine: each step goes on where the one before ended, with
// one container that was started at the beginning.
func TestSSHAgent(t *testing.T) {
	s := stage.New(t)
	dir := filepath.Join(s.Lab.Dir, "agents")
	first := startAgent(t, s, dir, "first")
	s.Env = append(s.Env, "SSH_AUTH_SOCK="+first.socket)
	nothing, err := s.Lab.Baseline(filepath.Join(s.RunDir, "default"))
	if err != nil {
		t.Fatal(err)
	}
	s.Portolan(t, "up")
	loads(t, s)
	kept := keep(t, s)

	t.Run("ssh-add as documented", func(t *testing.T) {
		sees(t, s, first, run()...)
		sees(t, s, first, kept...)
	})
	t.Run("another user", func(t *testing.T) {
		sees(t, s, first, run("-u", "1000:1000")...)
		sees(t, s, first, run("--cap-drop", "ALL", "-u", "1000")...)
	})
	t.Run("ssh to a server", func(t *testing.T) {
		startSSHD(t, s, filepath.Join(dir, "first"))
		for _, flags := range [][]string{nil, {"-u", "1000:1000"}} {
			if got, code := s.TryDocker(t, append(run(flags...), logIn...)...); code != 0 || !strings.Contains(got, "logged in as 0") {
				t.Errorf("ssh %v: exit code %d: %s", flags, code, got)
			}
		}
		out, code := s.TryDocker(t, append([]string{"run", "--rm", sshImage}, logIn...)...)
		if code == 0 || !strings.Contains(out, "Permission denied") {
			t.Errorf("ssh without the agent: exit code %d: %s", code, out)
		}
	})
	t.Run("compose", func(t *testing.T) { checkCompose(t, s, first) })
	t.Run("build", func(t *testing.T) { checkBuild(t, s, first) })
	t.Run("status", func(t *testing.T) {
		if a := status(t, s); a.Path != first.socket || a.Keys != 1 || a.Socket != socket || a.Tried[len(a.Tried)-1].Source != "SSH_AUTH_SOCK" {
			t.Errorf("status: %+v", a)
		}
		if out := s.Portolan(t, "ssh-agent"); !strings.Contains(out, first.socket+" (SSH_AUTH_SOCK): answers, keys: 1") {
			t.Errorf("portolan ssh-agent: %s", out)
		}
	})
	t.Run("no agent", func(t *testing.T) {
		first.stop()
		began := time.Now()
		out, code := s.TryDocker(t, append(kept, "ssh-add", "-l")...)
		if code == 0 || !strings.Contains(out, "agent") {
			t.Errorf("ssh-add without an agent: exit code %d: %s", code, out)
		}
		if took := time.Since(began); took > soon {
			t.Errorf("it took %s", took)
		}
		if out := s.Portolan(t, "ssh-agent"); !strings.Contains(out, "no agent answers") || !strings.Contains(out, "portolan ssh-agent use") || !strings.Contains(out, first.socket) {
			t.Errorf("portolan ssh-agent: %s", out)
		}
	})
	first = startAgent(t, s, dir, "first")
	t.Run("an agent that hangs", func(t *testing.T) { checkHanging(t, s, first, kept) })
	t.Run("agent restarted", func(t *testing.T) { sees(t, s, first, kept...) })
	second := startAgent(t, s, dir, "second")
	t.Run("agent moved, by use", func(t *testing.T) {
		if out := s.Portolan(t, "ssh-agent", "use", second.socket); !strings.Contains(out, second.socket+" (setting): answers, keys: 1") {
			t.Errorf("ssh-agent use: %s", out)
		}
		sees(t, s, second, kept...)
		s.Portolan(t, "ssh-agent", "use", "none")
		if out, code := s.TryDocker(t, append(kept, "ssh-add", "-l")...); code == 0 {
			t.Errorf("a closed agent answers: %s", out)
		}
		if out := s.Portolan(t, "ssh-agent", "use", "auto"); !strings.Contains(out, first.socket+" (SSH_AUTH_SOCK): answers, keys: 1") {
			t.Errorf("ssh-agent use auto: %s", out)
		}
		sees(t, s, first, kept...)
	})
	t.Run("agent moved, by the setting", func(t *testing.T) {
		s.Portolan(t, "settings", "set", "portolan.sshAgent", second.socket)
		sees(t, s, second, kept...)
		s.Portolan(t, "settings", "unset", "portolan.sshAgent")
	})
	t.Run("agent moved, by the next up", func(t *testing.T) {
		s.Env = append(s.Env, "SSH_AUTH_SOCK="+second.socket)
		s.Portolan(t, "up")
		sees(t, s, second, kept...)
		s.Env = append(s.Env, "SSH_AUTH_SOCK="+first.socket)
		s.Portolan(t, "up")
	})
	t.Run("bad use", func(t *testing.T) {
		for arg, want := range map[string]string{
			filepath.Join(dir, "gone.sock"): "no such file", filepath.Join(dir, "first"): "not a socket", "": "want the path",
		} {
			if out, code := s.TryPortolan(t, "ssh-agent", "use", arg); code == 0 || !strings.Contains(out, want) {
				t.Errorf("use %q: exit code %d: %s", arg, code, out)
			}
		}
		sees(t, s, first, kept...)
	})
	t.Run("the engine's socket is no agent", func(t *testing.T) { checkRuledOut(t, s, kept) })
	checkKills(t, s, first, kept)
	t.Run("down", func(t *testing.T) {
		s.Portolan(t, "down")
		first.stop()
		second.stop()
		nothing.Check(t)
	})
}

// checkHanging: an agent that has stopped still accepts, since the kernel does.
func checkHanging(t *testing.T, s *stage.Stage, a sshAgent, kept []string) {
	if err := a.process.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	out, code := s.TryDocker(t, append(kept, "ssh-add", "-l")...)
	if code == 0 || !strings.Contains(out, "agent") {
		t.Errorf("ssh-add with an agent that hangs: exit code %d: %s", code, out)
	}
	if took := time.Since(began); took > 2*soon {
		t.Errorf("it took %s", took)
	}
	if out := s.Portolan(t, "ssh-agent"); !strings.Contains(out, a.socket) || !strings.Contains(out, "does not answer within") {
		t.Errorf("portolan ssh-agent: %s", out)
	}
	if err := a.process.Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	sees(t, s, a, kept...)
}

// checkRuledOut: what rules an engine is no ssh-agent, under no name.
func checkRuledOut(t *testing.T, s *stage.Stage, kept []string) {
	link := filepath.Join(s.Lab.Dir, "link.sock")
	if err := os.Symlink(filepath.Join(s.RunDir, "default", "docker.sock"), link); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{link, filepath.Join(s.RunDir, "default", "portolan.sock"), filepath.Join(s.RunDir, "default", "machine", "engine.sock")} {
		s.Portolan(t, "ssh-agent", "use", path)
		if a := status(t, s); a.Path != "" || !strings.Contains(a.Tried[0].Error, "rules an engine or Portolan") {
			t.Errorf("%s: %+v", path, a)
		}
		if out, code := s.TryDocker(t, append(kept, "ssh-add", "-l")...); code == 0 {
			t.Errorf("%s is an agent: %s", path, out)
		}
	}
	s.Portolan(t, "ssh-agent", "use", "auto")
}

// checkKills kills what the socket depends on; the container's mount goes on.
func checkKills(t *testing.T, s *stage.Stage, a sshAgent, kept []string) {
	t.Helper()
	works := func(t *testing.T) {
		t.Helper()
		stage.Eventually(t, 30*time.Second, "the container reaches the agent", func() bool {
			out, code := s.TryDocker(t, append(kept, "ssh-add", "-l")...)
			return code == 0 && strings.Contains(out, a.key)
		})
	}
	t.Run("daemon killed", func(t *testing.T) {
		kill(t, s.Status(t).Daemon.PID)
		works(t)
	})
	for _, program := range []string{"portolan-agent serve", "dockerd", "portolan-agent serve"} {
		t.Run(program+" killed", func(t *testing.T) {
			pid := s.MachineProcess(t, program)
			kill(t, pid)
			stage.Eventually(t, soon, "another one runs", func() bool { return s.MachineProcess(t, program) != pid })
			works(t)
			sees(t, s, a, run()...)
		})
	}
}

// checkCompose is the documents' compose file, with an image that has ssh-add.
func checkCompose(t *testing.T, s *stage.Stage, a sshAgent) {
	path := filepath.Join(t.TempDir(), "compose.yaml")
	write(t, path, `
name: ssh
services:
  web:
    image: `+sshImage+`
    command: sleep 1000000
    volumes:
      - type: bind
        source: /run/host-services/ssh-auth.sock
        target: /run/host-services/ssh-auth.sock
    environment:
      - SSH_AUTH_SOCK=/run/host-services/ssh-auth.sock
`)
	s.Docker(t, "compose", "-f", path, "up", "-d")
	sees(t, s, a, "compose", "-f", path, "exec", "-T", "web")
	s.Docker(t, "compose", "-f", path, "down", "-t", "1")
}

// checkBuild: a build gets the agent of whoever types it, by way of the CLI.
func checkBuild(t *testing.T, s *stage.Stage, a sshAgent) {
	dir := t.TempDir()
	if s.User != nil { // who can't go there
		dir = s.User.HomeDir
	}
	write(t, filepath.Join(dir, "Dockerfile"), "FROM "+sshImage+"\nRUN --mount=type=ssh ssh-add -l > /keys\n")
	tag := "built" + strconv.Itoa(os.Getpid())
	s.Docker(t, "build", "-q", "--ssh", "default", "-t", tag, dir)
	if got := s.Docker(t, "run", "--rm", tag, "/bin/busybox", "cat", "/keys"); !strings.Contains(got, a.key) {
		t.Errorf("the build sees %s, want %s", got, a.key)
	}
}

// Root's daemon has no capabilities; an agent of the user who typed sudo is in a
// directory of that user's.
func TestSudo(t *testing.T) {
	s := stage.New(t)
	dir := filepath.Join(s.Lab.Dir, "ofuser")
	if err := os.Chmod(s.Lab.Dir, 0o711); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	const uid = 65534 // nobody: ssh-keygen wants a user that has a name
	if err := os.Chown(dir, uid, uid); err != nil {
		t.Fatal(err)
	}
	a := startAgent(t, s, dir, "user", "setpriv", "--reuid", strconv.Itoa(uid), "--regid", strconv.Itoa(uid), "--clear-groups")
	s.Env = append(s.Env, "SSH_AUTH_SOCK="+a.socket)
	s.Portolan(t, "up")
	loads(t, s)
	sees(t, s, a, run()...)
	sees(t, s, a, run("-u", "1000")...)
	if got := status(t, s); got.Path != a.socket {
		t.Errorf("status: %+v", got)
	}
}

// An ordinary user's machine, with the agent where systemd puts it, and no
// SSH_AUTH_SOCK.
func TestOrdinaryUser(t *testing.T) {
	s := stage.NewUser(t)
	a := startAgent(t, s, filepath.Join(s.User.HomeDir, "agent"), "mine")
	s.Portolan(t, "up")
	loads(t, s)
	kept := keep(t, s)
	if out, code := s.TryDocker(t, append(kept, "ssh-add", "-l")...); code == 0 {
		t.Errorf("an agent that nobody named answers: %s", out)
	}
	usual := filepath.Join(s.User.RunDir, "openssh_agent")
	if err := os.Symlink(a.socket, usual); err != nil {
		t.Fatal(err)
	}
	sees(t, s, a, kept...)
	sees(t, s, a, run("-u", "1000:1000")...)
	checkKills(t, s, a, kept)

	t.Run("build", func(t *testing.T) {
		s.Env = append(s.Env, "SSH_AUTH_SOCK="+a.socket)
		checkBuild(t, s, a)
	})

	// A socket of the user's own, and one of the engine's by another name.
	s.Portolan(t, "forward", "add", "unix:mine.sock", "unix:"+a.socket, "--from", "machine")
	sees(t, s, a, "run", "--rm", "--mount", "type=bind,src=/run/host-services/mine.sock,target=/mine", "-e", "SSH_AUTH_SOCK=/mine", sshImage)
	engine := filepath.Join(s.User.HomeDir, "engine.sock")
	if err := os.Symlink(filepath.Join(s.RunDir, "default", "docker.sock"), engine); err != nil {
		t.Fatal(err)
	}
	if out, code := s.TryPortolan(t, "forward", "add", "unix:e.sock", "unix:"+engine, "--from", "machine"); code != 1 || !strings.Contains(out, "rules an engine or Portolan") {
		t.Errorf("the engine's socket: exit code %d: %s", code, out)
	}
	// The other way, the socket is where the user wants it, and the user's.
	home := filepath.Join(s.User.HomeDir, "app.sock")
	s.Docker(t, "run", "-d", "--stop-timeout", "1", "-v", "/run/made:/made", sshImage, "dial", "echo", "/made/echo.sock")
	s.Portolan(t, "forward", "add", "unix:"+home, "unix:/run/made/echo.sock", "--from", "host")
	asks(t, s, "unix", home, "hello")
	if owner := s.Lab.Host.Run(t, "stat", "-c", "%U %a", home); strings.TrimSpace(owner) != s.User.Username+" 600" {
		t.Errorf("the socket is %s's", owner)
	}
	s.Portolan(t, "forward", "rm", "unix:"+home, "--from", "host")
	if exists(home) {
		t.Errorf("%s is left", home)
	}
	// What is another user's stays that user's.
	foreign := filepath.Join(s.Lab.Dir, "roots.sock")
	listen(t, s, "unix", foreign, "root")
	if err := os.Chmod(foreign, 0o600); err != nil {
		t.Fatal(err)
	}
	s.Portolan(t, "forward", "add", "unix:roots.sock", "unix:"+foreign, "--from", "machine")
	out, _ := s.TryDocker(t, "run", "--rm", "--mount", "type=bind,src=/run/host-services/roots.sock,target=/roots", sshImage, "dial", "unix", "/roots")
	if strings.TrimSpace(out) != "EOF" {
		t.Errorf("root's socket answers: %s", out)
	}
}
