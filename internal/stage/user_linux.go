package stage

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/portolan-net/portolan/internal/lab"
)

// User is an ordinary user of this computer, made for one test.
type User struct {
	*user.User

	RunDir string // XDG_RUNTIME_DIR
	Tun    string // the device file that the lab's host has as /dev/net/tun
}

// userPrefix begins the names of such users. The number after it is the test
// process, so that a later one knows whose process has died.
const userPrefix = "ptlab"

// userPath is what Debian gives ordinary users: no sbin (login.defs(5), ENV_PATH).
const userPath = "/usr/local/bin:/usr/bin:/bin"

// userNumber tells the users of one process apart.
var userNumber atomic.Int32

// NewUser is New for an ordinary user, on a host as distributions set it up:
// subordinate ids, a runtime directory, /dev/net/tun for everybody, ping
// sockets allowed. Directories are those of XDG, not of PORTOLAN_*.
func NewUser(t testing.TB, opts ...lab.Option) *Stage {
	t.Helper()
	u := addUser(t)
	s := build(t, opts...)
	s.User, s.Bin = u, s.reachable(t, u)
	u.Tun = filepath.Join(s.Lab.Dir, "tun")
	s.Lab.Host.Run(t, "mknod", "-m", "0666", u.Tun, "c", "10", "200")
	s.Lab.Host.Run(t, "mount", "--bind", u.Tun, "/dev/net/tun")
	s.SetPingGroups(t, "0 2147483647")
	s.StateDir = filepath.Join(u.HomeDir, ".local/share/portolan")
	s.RunDir = filepath.Join(u.RunDir, "portolan")
	s.Env = []string{
		"HOME=" + u.HomeDir, "USER=" + u.Username, "LOGNAME=" + u.Username,
		"XDG_RUNTIME_DIR=" + u.RunDir,
		"DOCKER_HOST=unix://" + filepath.Join(s.RunDir, "default", "docker.sock"),
		"PATH=" + s.Bin.Engine + ":" + filepath.Dir(s.Bin.Portolan) + ":" + userPath,
	}
	s.downAtEnd(t)
	return s
}

// UpUser is Up for an ordinary user.
func UpUser(t testing.TB, opts ...lab.Option) *Stage {
	t.Helper()
	s := NewUser(t, opts...)
	s.Portolan(t, "up")
	s.LoadImage(t)
	return s
}

// SetPingGroups says which groups may open ping sockets on the host (icmp(7)).
func (s *Stage) SetPingGroups(t testing.TB, groups string) {
	t.Helper()
	err := s.Lab.Host.Do(func() error { return os.WriteFile("/proc/sys/net/ipv4/ping_group_range", []byte(groups), 0) })
	if err != nil {
		t.Fatal(err)
	}
}

// reachable shows the programs on the host at a place that u can reach; where
// they are built may be for root alone.
func (s *Stage) reachable(t testing.TB, u *User) lab.Binaries {
	t.Helper()
	if err := os.Chmod(s.Lab.Dir, 0o711); err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(s.Lab.Dir, "bin")
	bin := lab.Binaries{
		Portolan: filepath.Join(dir, "portolan"), Agent: filepath.Join(dir, "portolan-agent"), Engine: filepath.Join(dir, "engine"),
	}
	if err := os.MkdirAll(bin.Engine, 0o755); err != nil {
		t.Fatal(err)
	}
	for place, program := range map[string]string{
		bin.Portolan: s.Bin.Portolan, bin.Agent: s.Bin.Agent, bin.Engine: s.Bin.Engine,
		filepath.Join(dir, "portolan-shim"): filepath.Join(filepath.Dir(s.Bin.Agent), "portolan-shim"),
	} {
		if place != bin.Engine {
			if err := os.WriteFile(place, nil, 0o755); err != nil {
				t.Fatal(err)
			}
		}
		s.Lab.Host.Run(t, "mount", "--bind", program, place)
	}
	return bin
}

// ordinary is how env(1) begins a command of the user's: without what root's
// shell has in its environment.
func (u *User) ordinary(ctx context.Context, host *lab.Node, args ...string) *exec.Cmd {
	return host.Command(ctx, "setpriv", append([]string{
		"--reuid", u.Uid, "--regid", u.Gid, "--init-groups",
		"env", "-C", u.HomeDir, "-u", "DOCKER_CONFIG", "-u", "XDG_DATA_HOME", "-u", "XDG_CONFIG_HOME", "-u", "MAIL",
	}, args...)...)
}

// addUser makes a user with subordinate ids, and removes it when the test ends.
func addUser(t testing.TB) *User {
	t.Helper()
	removeStaleUsers(t)
	name := fmt.Sprintf("%s%d-%d", userPrefix, os.Getpid(), userNumber.Add(1))
	if err := Account(t.Context(), "useradd", "-m", "-s", "/bin/sh", name); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		// The test's context has ended by now.
		if err := removeUser(context.WithoutCancel(t.Context()), name); err != nil {
			t.Error(err)
		}
	})
	found, err := user.Lookup(name)
	if err != nil {
		t.Fatal(err)
	}
	u := &User{User: found, RunDir: runtimeDir(found)}
	uid, uidErr := strconv.Atoi(u.Uid)
	gid, gidErr := strconv.Atoi(u.Gid)
	if err := errors.Join(uidErr, gidErr, os.MkdirAll(filepath.Dir(u.RunDir), 0o755), os.MkdirAll(u.RunDir, 0o700), os.Chown(u.RunDir, uid, gid)); err != nil {
		t.Fatal(err)
	}
	return u
}

// runtimeDir is where pam_systemd puts a user's runtime directory.
func runtimeDir(u *user.User) string { return filepath.Join("/run/user", u.Uid) }

// removeUser takes away the user with all that useradd and addUser made.
func removeUser(ctx context.Context, name string) error {
	u, err := user.Lookup(name)
	if err != nil {
		return err
	}
	err = errors.Join(Account(ctx, "userdel", "-r", "-f", name), os.RemoveAll(runtimeDir(u)))
	for _, file := range []string{"/etc/subuid", "/etc/subgid", "/etc/passwd", "/etc/group"} {
		text, readErr := os.ReadFile(file)
		if readErr == nil && strings.Contains("\n"+string(text), "\n"+name+":") {
			readErr = fmt.Errorf("remove user %s: it is still in %s", name, file)
		}
		err = errors.Join(err, readErr)
	}
	return err
}

// removeStaleUsers removes the users of test processes that were killed.
func removeStaleUsers(t testing.TB) {
	t.Helper()
	text, err := os.ReadFile("/etc/passwd")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		name, _, _ := strings.Cut(line, ":")
		number, _, _ := strings.Cut(strings.TrimPrefix(name, userPrefix), "-")
		pid, err := strconv.Atoi(number)
		if !strings.HasPrefix(name, userPrefix) || err != nil || unix.Kill(pid, 0) == nil {
			continue
		}
		if err := removeUser(t.Context(), name); err != nil {
			t.Logf("remove a former test's user: %v", err)
		}
	}
}

// accountPatience is how long another program may hold the lock of /etc/passwd.
const accountPatience = 20 * time.Second

// Account runs useradd, usermod or userdel, again when they say that somebody
// else has locked the files.
func Account(ctx context.Context, program string, args ...string) error {
	for end := time.Now().Add(accountPatience); ; time.Sleep(100 * time.Millisecond) {
		out, err := exec.CommandContext(ctx, program, args...).CombinedOutput()
		if err == nil {
			return nil
		}
		if !strings.Contains(string(out), "lock") || time.Now().After(end) {
			return fmt.Errorf("%s %s: %w: %s", program, strings.Join(args, " "), err, strings.TrimSpace(string(out)))
		}
	}
}
