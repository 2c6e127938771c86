package rootless

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/portolan-net/portolan/internal/stage"
)

// What the system withholds makes `up` fail with the reason and what to type;
// nothing is left behind, and with the remedy `up` works.
func TestRefusals(t *testing.T) {
	s := stage.NewUser(t)
	nothing, err := s.Lab.Baseline(filepath.Join(s.RunDir, "default"))
	if err != nil {
		t.Fatal(err)
	}
	for _, part := range []struct {
		name  string
		check func(*testing.T, *stage.Stage)
	}{
		{"no subordinate ids", checkNoSubordinates},
		{"no newuidmap", checkNoProgram},
		{"newuidmap without privilege", checkPowerlessProgram},
		{"user namespaces are switched off", checkNoNamespaces},
		{"no right to /dev/net/tun", checkNoTun},
	} {
		t.Run(part.name, func(t *testing.T) {
			part.check(t, s)
			nothing.Check(t)
		})
	}
	t.Run("no XDG_RUNTIME_DIR", func(t *testing.T) { checkNoRuntimeDir(t, s) })
}

// checkNoRuntimeDir is a login without pam_systemd: the sockets are in the home
// directory.
func checkNoRuntimeDir(t *testing.T, s *stage.Stage) {
	env := s.Env
	defer func() { s.Env = env }()
	s.Env = slices.DeleteFunc(slices.Clone(env), func(v string) bool {
		return strings.HasPrefix(v, "XDG_RUNTIME_DIR=") || strings.HasPrefix(v, "DOCKER_HOST=")
	})
	// The words go to env(1).
	s.Env = append([]string{"-u", "XDG_RUNTIME_DIR", "-u", "DOCKER_HOST"}, s.Env...)
	s.Portolan(t, "up")
	defer s.Portolan(t, "down")
	socket := filepath.Join(s.User.HomeDir, ".local/run/portolan/default/docker.sock")
	if got := s.Docker(t, "-H", "unix://"+socket, "version", "-f", "{{.Server.Os}}"); got != "linux" {
		t.Errorf("the engine at %s says %q", socket, got)
	}
	if got := s.Docker(t, "--context", "portolan", "version", "-f", "{{.Server.Os}}"); got != "linux" {
		t.Errorf("the context's engine says %q", got)
	}
}

// upFails returns what `up` says.
func upFails(t *testing.T, s *stage.Stage) string {
	t.Helper()
	out, code := s.TryPortolan(t, "up")
	if code != 1 {
		t.Fatalf("up: exit code %d, want 1: %s", code, out)
	}
	return out
}

// doctorSays checks that doctor fails with the same remedy.
func doctorSays(t *testing.T, s *stage.Stage, remedy string) {
	t.Helper()
	out, code := s.TryPortolan(t, "doctor", "--target", "127.0.0.1:1")
	if code != 1 {
		t.Errorf("doctor: exit code %d, want 1", code)
	}
	says(t, out, remedy)
}

// checkNoSubordinates types what the message says, and gets ids.
func checkNoSubordinates(t *testing.T, s *stage.Stage) {
	_, first := ids(t, s.User)
	had := fmt.Sprintf("%d-%d", first, first+65535)
	usermod(t, "--del-subuids", had, s.User.Username)
	usermod(t, "--del-subgids", had, s.User.Username)
	out := upFails(t, s)
	remedies := regexp.MustCompile(`as root, type: usermod (--add-sub[ug]ids) (\d+-\d+) (\S+)`).FindAllStringSubmatch(out, -1)
	if len(remedies) != 2 {
		t.Fatalf("up does not name both files: %s", out)
	}
	doctorSays(t, s, remedies[0][0])
	for _, r := range remedies {
		usermod(t, r[1:]...)
	}
	s.Portolan(t, "up")
	s.Portolan(t, "down")
}

func usermod(t *testing.T, args ...string) {
	t.Helper()
	if err := stage.Account(t.Context(), "usermod", args...); err != nil {
		t.Fatal(err)
	}
}

// withPath runs f while the user's PATH is another.
func withPath(s *stage.Stage, path string, f func()) {
	env := s.Env
	defer func() { s.Env = env }()
	s.Env = append(append([]string{}, env...), "PATH="+path)
	f()
}

func checkNoProgram(t *testing.T, s *stage.Stage) {
	withPath(s, s.Bin.Engine+":"+filepath.Dir(s.Bin.Portolan), func() {
		out := upFails(t, s)
		for _, program := range []string{"newuidmap", "newgidmap"} {
			says(t, out, program+" is not on PATH; as root, type: apt-get install uidmap")
		}
		doctorSays(t, s, "apt-get install uidmap")
	})
}

// checkPowerlessProgram has a newuidmap that is not setuid root.
func checkPowerlessProgram(t *testing.T, s *stage.Stage) {
	dir := filepath.Join(s.User.HomeDir, "powerless")
	run(t, s, "sh", "-c", "mkdir "+dir+" && cp /usr/bin/newuidmap /usr/bin/newgidmap "+dir)
	withPath(s, dir+":"+s.Bin.Engine, func() {
		says(t, upFails(t, s), "as root, type: chmod u+s "+dir+"/newuidmap")
	})
}

func checkNoTun(t *testing.T, s *stage.Stage) {
	if err := os.Chmod(s.User.Tun, 0o600); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.Chmod(s.User.Tun, 0o666); err != nil {
			t.Error(err)
		}
	})
	says(t, upFails(t, s), "as root, type: chmod 0666 /dev/net/tun")
	doctorSays(t, s, "as root: chmod 0666 /dev/net/tun")
}

// checkNoNamespaces runs `up` where user.max_user_namespaces is 0: in a user
// namespace with all ids, for the whole computer would have to do without
// otherwise. Such a namespace has its own limit (namespaces(7)).
func checkNoNamespaces(t *testing.T, s *stage.Stage) {
	// The second shell begins when the ids are mapped, and so has capabilities.
	const inside = `echo 0 > /proc/sys/user/max_user_namespaces &&
		exec setpriv --reuid "$0" --regid "$0" --clear-groups env -C / "$@" up`
	args := append([]string{"--user", "sh", "-c", `echo begun; read -r _; exec "$@"`, "sh", "sh", "-c", inside, s.User.Uid}, s.Env...)
	cmd := s.Lab.Host.Command(t.Context(), "unshare", append(args, s.Bin.Portolan)...)
	var out lockedBuffer
	cmd.Stdout, cmd.Stderr = &out, &out
	input, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := false
	defer func() {
		if !ended {
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
		}
	}()
	stage.Eventually(t, 10*time.Second, "the namespace is there", func() bool { return strings.Contains(out.String(), "begun") })
	for _, file := range []string{"uid_map", "gid_map"} {
		path := fmt.Sprintf("/proc/%d/%s", cmd.Process.Pid, file)
		if err := os.WriteFile(path, []byte("0 0 4294967295"), 0); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := input.Write([]byte("\n")); err != nil {
		t.Fatal(err)
	}
	err, ended = cmd.Wait(), true
	if err == nil {
		t.Fatalf("up works: %s", out.String())
	}
	says(t, out.String(), "as root, type: sysctl -w user.max_user_namespaces=15000")
}
