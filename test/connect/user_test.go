package connect_test

import (
	"errors"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/portolan-net/portolan/internal/stage"
)

// An ordinary user's machine, connected with sudo's environment: root's process,
// the user's name in SUDO_USER.
func TestConnectUser(t *testing.T) {
	s := stage.NewUser(t)
	play(t, s, func(t *testing.T, args ...string) string {
		t.Helper()
		words := append([]string{"SUDO_USER=" + s.User.Username, "SUDO_UID=" + s.User.Uid, s.Bin.Portolan}, args...)
		out, err := s.Lab.Host.Command(t.Context(), "env", words...).Output()
		if err != nil {
			t.Fatalf("sudo portolan %s: %v\n%s", strings.Join(args, " "), err, out)
		}
		return string(out)
	})
}

// checkShell runs commands of the host in the machine's network.
func checkShell(t *testing.T, s *stage.Stage) {
	s.Docker(t, "network", "create", "--ipv6", "mine")
	s.Docker(t, "network", "create", "--internal", "closed")
	s.Serve(t, "web", []string{"--network", "mine"}, "web", "-name", "web")
	s.Serve(t, "inner", []string{"--network", "closed"}, "web")
	for _, name := range []string{"web", "inner"} {
		stage.Eventually(t, soon, "the daemon knows the name", func() bool {
			out, code := s.TryPortolan(t, "shell", "--", "getent", "hosts", name+".portolan.internal")
			return code == 0 && strings.Contains(out, name+".portolan.internal")
		})
	}
	mine := strings.TrimSpace(s.Portolan(t, "shell", "--", "id", "-u"))
	own := strconv.Itoa(os.Getuid())
	home := t.TempDir()
	if s.User != nil {
		own, home = s.User.Uid, s.User.HomeDir
	}
	if mine != own {
		t.Errorf("the command runs as %s, want %s", mine, own)
	}
	for _, c := range []struct {
		script string
		want   string
	}{
		{`curl -sS http://web/ip http://web.portolan.internal/ip | grep -c '[.:]'`, "2"},
		{`exec 3<>/dev/tcp/web/80; printf 'GET /ip HTTP/1.0\r\nHost: web\r\n\r\n' >&3; cat <&3 | tail -n 1 | grep -q '[.:]' && echo seen`, "seen"},
		{`ping -c 1 -W 2 web >/dev/null && echo pong`, "pong"},
		{`curl -sS http://inner/ip >/dev/null && echo inside`, "inside"},
		{`getent ahostsv4 web.internet.test | head -n 1`, "198.51.100.1"},
		{`getent hosts host.docker.internal`, "254 "},
		{`echo written > ` + home + `/by-shell && stat -c %u ` + home + `/by-shell`, own},
	} {
		out, code := s.TryPortolan(t, "shell", "--", "bash", "-c", c.script)
		if code != 0 || !strings.Contains(out, c.want) {
			t.Errorf("%s: exit code %d: %q, want %q", c.script, code, out, c.want)
		}
	}
	if s.User != nil {
		uid, _ := strconv.Atoi(s.User.Uid)
		info, err := os.Stat(home + "/by-shell")
		if err != nil {
			t.Fatal(err)
		}
		if got := ownerOf(info); got != uid {
			t.Errorf("the file belongs to %d, want the user %d", got, uid)
		}
		if out, code := s.TryPortolan(t, "connect"); code != 1 || !strings.Contains(out, "sudo portolan connect") {
			t.Errorf("connect without privilege: exit code %d: %s", code, out)
		}
	}
	for _, c := range []struct {
		args []string
		code int
	}{
		{[]string{"bash", "-c", "exit 42"}, 42},
		{[]string{"no-such-program"}, 127},
		{[]string{"/etc/passwd"}, 126},
	} {
		if out, code := s.TryPortolan(t, append([]string{"shell", "--"}, c.args...)...); code != c.code {
			t.Errorf("shell -- %v: exit code %d, want %d: %s", c.args, code, c.code, out)
		}
	}
	checkTerminal(t, s)
	cmd := s.Command(t.Context(), s.Bin.Portolan, "shell", "--", "bash", "-c", `trap 'echo caught; exit 7' TERM; echo ready; while :; do sleep 0.05; done`)
	signalled(t, cmd)
	if before, after := "nameserver", hostResolver(t, s); !strings.Contains(after, before) || strings.Contains(after, "192.168.65.7") {
		t.Errorf("the host's resolv.conf: %s", after)
	}
	if out, code := s.TryPortolan(t, "--profile", "none", "shell", "--", "true"); code != 1 || !strings.Contains(out, "portolan --profile none up") {
		t.Errorf("a shell without a machine: exit code %d: %s", code, out)
	}
}

// checkTerminal types at a shell without a command: it is $SHELL, on the terminal.
func checkTerminal(t *testing.T, s *stage.Stage) {
	t.Helper()
	cmd := s.Command(t.Context(), "env", "SHELL=/bin/bash", "script", "-qec", s.Bin.Portolan+" shell", "/dev/null")
	cmd.Stdin = strings.NewReader("tty\ncurl -s http://web/ip >/dev/null && echo r\"\"eached\nexit 42\n")
	out, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != 42 || !strings.Contains(string(out), "/dev/pts/") || !strings.Contains(string(out), "reached") {
		t.Errorf("a shell on a terminal: %v, want exit code 42: %s", err, out)
	}
}

func hostResolver(t *testing.T, s *stage.Stage) string {
	t.Helper()
	return s.Lab.Host.Run(t, "cat", "/etc/resolv.conf")
}

func TestShell(t *testing.T) { checkShell(t, stage.Up(t)) }

func TestShellUser(t *testing.T) { checkShell(t, stage.UpUser(t)) }

// patience is for what takes a program to start.
const patience = 20 * time.Second
