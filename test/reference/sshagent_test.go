package reference

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/portolan-net/portolan/internal/stage"
)

// sshSocket is the documents' path.
const sshSocket = "/run/host-services/ssh-auth.sock"

// sshAgent are the two ways in which a container gets the host's ssh-agent. The
// client is ssh-add of this computer, which the images of the documents lack.
func sshAgent() []example {
	return []example{
		{
			command: "docker run --mount type=bind,src=" + sshSocket + ",target=" + sshSocket + ` -e SSH_AUTH_SOCK="` + sshSocket + `"`,
			from:    []string{"000: SSH agent forwarding"},
			checks:  "the container has the key that the host's agent has",
			run: func(t *testing.T, s *stage.Stage) {
				key := startSSHAgent(t, s)
				args := []string{"run", "--rm", "--mount", "type=bind,src=" + sshSocket + ",target=" + sshSocket, "-e", "SSH_AUTH_SOCK=" + sshSocket}
				args = append(append(args, sshAddMounts(t)...), "alpine", "/usr/bin/ssh-add", "-l")
				if got := s.Docker(t, args...); !strings.Contains(got, key) {
					t.Errorf("the container has %s, want %s", got, key)
				}
			},
		},
		{
			command: "compose: volumes and environment of a service",
			from:    []string{"000: SSH agent forwarding"},
			checks:  "the service has the key that the host's agent has",
			run: func(t *testing.T, s *stage.Stage) {
				key := startSSHAgent(t, s)
				text := `
services:
  web:
    image: alpine
    command: ["/usr/bin/ssh-add", "-l"]
    volumes:
      - type: bind
        source: ` + sshSocket + `
        target: ` + sshSocket + "\n"
				for _, flag := range sshAddMounts(t) {
					if flag != "-v" {
						text += "      - " + flag + "\n"
					}
				}
				text += "    environment:\n      - SSH_AUTH_SOCK=" + sshSocket + "\n"
				path := filepath.Join(t.TempDir(), "compose.yaml")
				if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
					t.Fatal(err)
				}
				if got := s.Docker(t, "compose", "-f", path, "run", "--rm", "web"); !strings.Contains(got, key) {
					t.Errorf("the service has %s, want %s", got, key)
				}
				s.Docker(t, "compose", "-f", path, "down", "-t", "1")
			},
		},
	}
}

// startSSHAgent runs OpenSSH's agent on the host with a key, tells Portolan where
// it is, and returns the key's comment.
func startSSHAgent(t *testing.T, s *stage.Stage) string {
	t.Helper()
	const comment = "key-of-the-host"
	dir := t.TempDir()
	socket, key := filepath.Join(dir, "agent.sock"), filepath.Join(dir, "key")
	ctx, stop := context.WithCancel(context.WithoutCancel(t.Context()))
	agent := s.Command(ctx, "ssh-agent", "-D", "-a", socket)
	if err := agent.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		stop()
		_ = agent.Wait() // it was killed
	})
	stage.Eventually(t, 10*time.Second, "ssh-agent listens", func() bool { _, err := os.Stat(socket); return err == nil })
	for _, words := range [][]string{
		{"ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", comment, "-f", key},
		{"env", "SSH_AUTH_SOCK=" + socket, "ssh-add", "-q", key},
	} {
		if out, err := s.Command(t.Context(), words[0], words[1:]...).CombinedOutput(); err != nil {
			t.Fatalf("%s: %v: %s; type: scripts/packages test", words[0], err, out)
		}
	}
	s.Portolan(t, "ssh-agent", "use", socket)
	t.Cleanup(func() { s.Portolan(t, "ssh-agent", "use", "auto") })
	return comment
}

// sshAddMounts are the flags that show ssh-add and its libraries to a container.
func sshAddMounts(t *testing.T) []string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "ldd", "/usr/bin/ssh-add").CombinedOutput()
	if err != nil {
		t.Fatalf("find the libraries of ssh-add: %v: %s; type: scripts/packages test", err, out)
	}
	flags := []string{"-v", "/usr/bin/ssh-add:/usr/bin/ssh-add:ro"}
	for field := range strings.FieldsSeq(string(out)) {
		if filepath.IsAbs(field) {
			flags = append(flags, "-v", field+":"+field+":ro")
		}
	}
	return flags
}
