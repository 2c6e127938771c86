// Package hostservice shows that containers use the ssh-agent of the host's user,
// and other sockets of the host and the machine, with OpenSSH's own programs.
package hostservice

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/portolan-net/portolan/internal/image"
	"github.com/portolan-net/portolan/internal/lab"
	"github.com/portolan-net/portolan/internal/stage"
)

// socket is where the documents say that containers find the agent.
const socket = "/run/host-services/ssh-auth.sock"

// sshImage holds ssh and ssh-add.
const sshImage = "portolan/ssh:latest"

// asDocumented are the flags of docker run that the documents give.
var asDocumented = []string{"--mount", "type=bind,src=" + socket + ",target=" + socket, "-e", "SSH_AUTH_SOCK=" + socket}

// soon is the deadline for what takes a moment; nothing may hang.
const soon = 10 * time.Second

// loadSSH makes sshImage of this computer's programs.
func loadSSH(t *testing.T, s *stage.Stage) {
	t.Helper()
	files := map[string]string{"/bin/busybox": "/bin/busybox"}
	for _, program := range []string{"/usr/bin/ssh", "/usr/bin/ssh-add"} {
		addProgram(t, files, program)
	}
	files["/bin/dial"] = filepath.Join(t.TempDir(), "dial")
	build := exec.CommandContext(t.Context(), "go", "build", "-buildvcs=false", "-o", files["/bin/dial"], "./dial")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build dial: %v: %s", err, out)
	}
	passwd := filepath.Join(t.TempDir(), "passwd")
	write(t, passwd, "root:x:0:0:root:/root:/bin/sh\nuser:x:1000:1000:user:/tmp:/bin/sh\n")
	files["/etc/passwd"] = passwd
	path := filepath.Join(s.Lab.Dir, "ssh.tar")
	file, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	img := image.Image{Name: sshImage, Files: files, Links: map[string]string{"/bin/sh": "/bin/busybox", "/bin/sleep": "/bin/busybox"}}
	if err := errors.Join(image.Write(file, img), file.Close()); err != nil {
		t.Fatal(err)
	}
	s.Docker(t, "load", "-q", "-i", path)
}

// addProgram adds a program with the libraries that it needs.
func addProgram(t *testing.T, files map[string]string, program string) {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "ldd", program).CombinedOutput()
	if err != nil {
		t.Fatalf("find the libraries of %s: %v: %s; type: scripts/packages test", program, err, out)
	}
	files[program] = program
	for field := range strings.FieldsSeq(string(out)) {
		if filepath.IsAbs(field) {
			files[field] = field
		}
	}
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

// sshAgent is a running ssh-agent with one key.
type sshAgent struct {
	socket, key string // key is its comment
	process     *os.Process
	stop        func()
}

// startAgent runs OpenSSH's agent on the host as the stage's user, in a directory
// that is for that user alone, and gives it a key. as is put before its commands.
func startAgent(t *testing.T, s *stage.Stage, dir, name string, as ...string) sshAgent {
	t.Helper()
	a := sshAgent{socket: filepath.Join(dir, name+".sock"), key: "key-of-" + name}
	run := func(args ...string) {
		t.Helper()
		words := append(append([]string{}, as...), args...)
		if out, err := s.Command(t.Context(), words[0], words[1:]...).CombinedOutput(); err != nil {
			t.Fatalf("%s: %v: %s", strings.Join(words, " "), err, out)
		}
	}
	run("mkdir", "-p", "-m", "0700", dir)
	run("rm", "-f", a.socket)
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	words := append(append([]string{}, as...), "ssh-agent", "-D", "-a", a.socket)
	cmd := s.Command(ctx, words[0], words[1:]...)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	a.process = cmd.Process
	stopped := false
	a.stop = func() {
		if !stopped {
			stopped = true
			cancel()
			_ = cmd.Wait() // it was killed
			_ = os.Remove(a.socket)
		}
	}
	t.Cleanup(a.stop)
	stage.Eventually(t, soon, "ssh-agent listens", func() bool { _, err := os.Stat(a.socket); return err == nil })
	key := filepath.Join(dir, name)
	if _, err := os.Stat(key); err != nil {
		run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", a.key, "-f", key)
	}
	run("env", "SSH_AUTH_SOCK="+a.socket, "ssh-add", "-q", key)
	return a
}

// sees runs ssh-add in a container, and wants the agent's key and no other.
func sees(t *testing.T, s *stage.Stage, a sshAgent, args ...string) {
	t.Helper()
	began := time.Now()
	out, code := s.TryDocker(t, append(args, "ssh-add", "-l")...)
	if code != 0 || !strings.Contains(out, a.key) || strings.Count(out, "ED25519") != 1 {
		t.Errorf("docker %s ssh-add -l: exit code %d: %s, want %s", strings.Join(args, " "), code, out, a.key)
	}
	if took := time.Since(began); took > soon {
		t.Errorf("it took %s", took)
	}
}

// run is the beginning of docker run with the documented flags.
func run(flags ...string) []string {
	return append(append([]string{"run", "--rm"}, append(flags, asDocumented...)...), sshImage)
}

// keep starts a container that stays, with the agent's socket mounted.
func keep(t *testing.T, s *stage.Stage) []string {
	t.Helper()
	s.Docker(t, append(append([]string{"run", "-d", "--stop-timeout", "1", "--name", "keep"}, asDocumented...), sshImage, "/bin/sleep", "1000000")...)
	return []string{"exec", "keep"}
}

// startSSHD runs a real sshd on the LAN's neighbour, which lets agent a's key in
// as root. What it wants of its computer is private to it.
func startSSHD(t *testing.T, s *stage.Stage, key string) {
	t.Helper()
	dir := t.TempDir()
	program := filepath.Join(filepath.Dir(s.Bin.Engine), "sshd")
	if _, err := os.Stat(program); err != nil {
		t.Fatalf("find sshd: %v; type: scripts/packages test", err)
	}
	public, err := os.ReadFile(key + ".pub")
	if err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(dir, "authorized"), string(public))
	write(t, filepath.Join(dir, "passwd"), "root:x:0:0:root:"+dir+":/bin/sh\nsshd:x:65534:65534::/run/sshd:/bin/false\n")
	config := "Port 22\nHostKey " + dir + "/host\nAuthorizedKeysFile " + dir + "/authorized\n" +
		"PermitRootLogin yes\nStrictModes no\nUsePAM no\nPasswordAuthentication no\nPidFile none\n"
	for setting, name := range map[string]string{"SshdSessionPath": "sshd-session", "SshdAuthPath": "sshd-auth"} {
		if path := filepath.Join(filepath.Dir(program), name); exists(path) {
			config += setting + " " + path + "\n"
		}
	}
	write(t, filepath.Join(dir, "config"), config)
	if out, err := exec.CommandContext(t.Context(), "ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", filepath.Join(dir, "host")).CombinedOutput(); err != nil {
		t.Fatalf("ssh-keygen: %v: %s", err, out)
	}
	script := fmt.Sprintf(`mount -t tmpfs none /run && mkdir /run/sshd && mount --bind %[1]s/passwd /etc/passwd && exec %[2]s -D -e -f %[1]s/config`, dir, program)
	cmd := s.Lab.Neighbour.Command(context.WithoutCancel(t.Context()), "unshare", "-m", "sh", "-c", script)
	cmd.Stderr = t.Output()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait() // it was killed
	})
	stage.Eventually(t, soon, "sshd listens", func() bool {
		conn, err := s.Lab.Host.Dial(t.Context(), "tcp", lab.NeighbourV4+":22")
		if err == nil {
			_ = conn.Close()
		}
		return err == nil
	})
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// logIn is what ssh is asked for in a container.
var logIn = []string{
	"ssh", "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "-o", "LogLevel=ERROR", "-o", "BatchMode=yes",
	"root@" + lab.NeighbourV4, "echo logged in as $(id -u)",
}

// loads gives the engine both images.
func loads(t *testing.T, s *stage.Stage) {
	t.Helper()
	s.LoadImage(t)
	loadSSH(t, s)
}
