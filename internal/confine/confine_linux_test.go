package confine

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
	"kernel.org/pub/linux/libs/security/libcap/cap"
)

// roleVariable makes this test binary a process that confines itself, or does
// not, and tells what it can do then.
const roleVariable = "PORTOLAN_CONFINE_TEST"

func TestMain(m *testing.M) {
	if role := os.Getenv(roleVariable); role != "" {
		if err := play(role, os.Args[1]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// report is what a process says about itself.
type report struct {
	InForce InForce
	Tried   map[string]string // error texts, "" for success
	Refused int               // of denied, those that ended with EPERM
	Status  string            // /proc/self/status
}

// The directories of a test below its own, and what is in them before.
const (
	readable  = "readable"
	writable  = "writable"
	forbidden = "forbidden"
	content   = "content"
)

// play tries the same with and without confinement.
func play(role, dir string) error {
	var r report
	// A descriptor from before goes on working.
	open, err := os.Open(filepath.Join(dir, forbidden, content))
	if err != nil {
		return err
	}
	defer open.Close()
	if role == "confined" {
		r.InForce, err = Apply(Policy{
			Keep: []cap.Value{cap.NET_BIND_SERVICE, cap.NET_RAW},
			Files: &Files{
				Read:  []string{filepath.Join(dir, readable), "/proc"},
				Write: []string{filepath.Join(dir, writable)},
				Use:   []string{"/dev/null"},
			},
		})
		if err != nil {
			return err
		}
		for _, number := range denied() {
			bad := ^uintptr(0) // what no call takes
			if _, _, errno := unix.RawSyscall6(uintptr(number), bad, bad, bad, bad, bad, bad); errno == unix.EPERM {
				r.Refused++
			} else {
				fmt.Fprintf(os.Stderr, "system call %d: %v\n", number, errno)
			}
		}
	}
	r.Tried = map[string]string{}
	for name, attempt := range attempts(dir, open) {
		if err := attempt(); err != nil {
			r.Tried[name] = err.Error()
		} else {
			r.Tried[name] = ""
		}
	}
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return err
	}
	r.Status = string(status)
	return json.NewEncoder(os.Stdout).Encode(r)
}

// attempts are harmless where they succeed: calls get what they must refuse.
func attempts(dir string, open *os.File) map[string]func() error {
	call := func(number uintptr, args ...uintptr) func() error {
		return func() error {
			args := append(args, 0, 0, 0)
			if _, _, errno := unix.Syscall(number, args[0], args[1], args[2]); errno != 0 {
				return errno
			}
			return nil
		}
	}
	socket := func(domain, kind, proto int) func() error {
		return func() error {
			fd, err := unix.Socket(domain, kind, proto)
			if err != nil {
				return err
			}
			return unix.Close(fd)
		}
	}
	read := func(path string) func() error {
		return func() error { _, err := os.ReadFile(path); return err }
	}
	write := func(path string) func() error {
		return func() error {
			if err := os.WriteFile(path, nil, 0o600); err != nil {
				return err
			}
			return os.Remove(path)
		}
	}
	in := func(names ...string) string { return filepath.Join(append([]string{dir}, names...)...) }
	return map[string]func() error{
		"call mount":    call(unix.SYS_MOUNT),
		"call unshare":  call(unix.SYS_UNSHARE),
		"call ptrace":   call(unix.SYS_PTRACE, unix.PTRACE_CONT, 1<<30),
		"call reboot":   call(unix.SYS_REBOOT),
		"call bpf":      call(unix.SYS_BPF, 1<<20),
		"call io_uring": call(unix.SYS_IO_URING_SETUP),
		"call setuid":   call(unix.SYS_SETUID, uintptr(unix.Getuid())),
		"call execve":   call(unix.SYS_EXECVE),
		"call clone":    call(unix.SYS_CLONE, unix.CLONE_NEWNS|unix.CLONE_FS), // EINVAL by clone(2)
		"call clone3":   call(unix.SYS_CLONE3),
		"start a program": func() error {
			cmd := exec.Command("/proc/self/exe", "-test.run=^$")
			cmd.Env = []string{roleVariable + "="}
			return cmd.Run()
		},

		"socket tcp":      socket(unix.AF_INET, unix.SOCK_STREAM, 0),
		"socket mptcp6":   socket(unix.AF_INET6, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, unix.IPPROTO_TCP),
		"socket udp6":     socket(unix.AF_INET6, unix.SOCK_DGRAM|unix.SOCK_NONBLOCK, 0),
		"socket unix":     socket(unix.AF_UNIX, unix.SOCK_SEQPACKET, 0),
		"socket netlink":  socket(unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_ROUTE),
		"socket raw ping": socket(unix.AF_INET, unix.SOCK_RAW|unix.SOCK_NONBLOCK, unix.IPPROTO_ICMP),
		"socket raw udp":  socket(unix.AF_INET, unix.SOCK_RAW, unix.IPPROTO_UDP),
		"socket raw tcp6": socket(unix.AF_INET6, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_TCP),
		"socket packet":   socket(unix.AF_PACKET, unix.SOCK_RAW, 0),
		"socket packet2":  socket(unix.AF_PACKET, unix.SOCK_DGRAM, 0),

		"file read readable":       read(in(readable, content)),
		"file list readable":       func() error { _, err := os.ReadDir(in(readable)); return err },
		"file write readable":      write(in(readable, "new")),
		"file read writable":       read(in(writable, content)),
		"file write writable":      write(in(writable, "new")),
		"file mkdir writable":      func() error { return errors.Join(os.Mkdir(in(writable, "dir"), 0o700), os.Remove(in(writable, "dir"))) },
		"file listen writable":     func() error { return listenOnce(in(writable, "socket")) },
		"file read forbidden":      read(in(forbidden, content)),
		"file list forbidden":      func() error { _, err := os.ReadDir(in(forbidden)); return err },
		"file write forbidden":     write(in(forbidden, "new")),
		"file listen forbidden":    func() error { return listenOnce(in(forbidden, "socket")) },
		"file through link":        read(in(readable, "link")), // leads to forbidden
		"file opened before":       func() error { _, err := open.Read(make([]byte, 1)); return err },
		"file of the parent's":     func() error { _, err := os.Readlink(fmt.Sprintf("/proc/%d/fd/1", os.Getppid())); return err },
		"file replace in writable": func() error { return replace(in(writable, "replaced")) },
	}
}

func listenOnce(path string) error {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if err := unix.Bind(fd, &unix.SockaddrUnix{Name: path}); err != nil {
		return err
	}
	return os.Remove(path)
}

// replace writes a file as state is written.
func replace(path string) error {
	return errors.Join(os.WriteFile(path+".new", nil, 0o600), os.WriteFile(path, nil, 0o600), os.Rename(path+".new", path), os.Remove(path))
}

// run starts this test binary in a role.
func run(t *testing.T, role string, attr *syscall.SysProcAttr) report {
	t.Helper()
	dir := t.TempDir()
	for _, name := range []string{readable, writable, forbidden} {
		if err := os.Mkdir(filepath.Join(dir, name), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name, content), []byte("x"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink(filepath.Join("..", forbidden, content), filepath.Join(dir, readable, "link")); err != nil {
		t.Fatal(err)
	}
	if attr.Credential != nil {
		giveTo(t, dir, int(attr.Credential.Uid))
	}
	// The link leads an ordinary user to a program whose directory is closed to it.
	cmd := exec.CommandContext(t.Context(), "/proc/self/exe", dir)
	cmd.Env = append(os.Environ(), roleVariable+"="+role)
	cmd.SysProcAttr = attr
	var errText strings.Builder
	cmd.Stderr = &errText
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s: %v: %s", role, err, errText.String())
	}
	var r report
	if err := json.Unmarshal(out, &r); err != nil {
		t.Fatalf("%s: %v: %s", role, err, out)
	}
	if errText.Len() > 0 {
		t.Log(errText.String())
	}
	return r
}

// giveTo makes a user the owner of a tree and opens the way to it.
func giveTo(t *testing.T, dir string, uid int) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, _ os.DirEntry, err error) error {
		return errors.Join(err, os.Lchown(path, uid, uid))
	})
	if err == nil {
		err = os.Chmod(filepath.Dir(dir), 0o755) // t.TempDir's own parent
	}
	if err != nil {
		t.Fatal(err)
	}
}

const (
	notPermitted = "operation not permitted"
	denial       = "permission denied"
)

// refusedWhenConfined says what each attempt must end with; all others succeed.
func refusedWhenConfined() map[string]string {
	return map[string]string{
		"call mount": notPermitted, "call unshare": notPermitted, "call ptrace": notPermitted, "call reboot": notPermitted,
		"call bpf": notPermitted, "call io_uring": notPermitted, "call setuid": notPermitted, "call execve": notPermitted,
		"call clone": notPermitted, "call clone3": "function not implemented", "start a program": notPermitted,
		"socket raw udp": notPermitted, "socket raw tcp6": notPermitted, "socket packet": notPermitted, "socket packet2": notPermitted,
		"file write readable": denial, "file read forbidden": denial, "file list forbidden": denial, "file write forbidden": denial,
		"file listen forbidden": denial, "file through link": denial, "file of the parent's": denial,
	}
}

// The same attempts without confinement: what Apply takes is there before.
func TestWithoutConfinement(t *testing.T) {
	r := run(t, "free", &syscall.SysProcAttr{})
	for name, text := range refusedWhenConfined() {
		if got := r.Tried[name]; strings.HasSuffix(got, text) {
			t.Errorf("%s: %s, want it not refused", name, got)
		}
	}
	for name, got := range r.Tried {
		if got != "" && !strings.HasPrefix(name, "call ") {
			t.Errorf("%s: %s", name, got)
		}
	}
}

func TestConfined(t *testing.T) {
	r := run(t, "confined", &syscall.SysProcAttr{})
	if !r.InForce.Seccomp || r.InForce.Landlock == 0 {
		t.Fatalf("in force: %+v; this kernel can not show what is tested here", r.InForce)
	}
	checkTried(t, r, refusedWhenConfined())
	for field, want := range map[string]string{
		"NoNewPrivs": "1", "Seccomp": "2", "CapInh": "0000000000000000", "CapPrm": "0000000000002400",
		"CapEff": "0000000000002400", "CapBnd": "0000000000000000", "CapAmb": "0000000000000000",
	} {
		if got := statusField(r.Status, field); got != want {
			t.Errorf("%s: %s, want %s", field, got, want)
		}
	}
}

// An ordinary user has nothing to drop, and loses the rest alike.
func TestOrdinaryUserConfined(t *testing.T) {
	const nobody = 65534
	r := run(t, "confined", &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}})
	refused := maps.Clone(refusedWhenConfined())
	refused["socket raw ping"] = notPermitted
	checkTried(t, r, refused)
	for field, want := range map[string]string{"NoNewPrivs": "1", "Seccomp": "2", "CapPrm": "0000000000000000", "CapEff": "0000000000000000"} {
		if got := statusField(r.Status, field); got != want {
			t.Errorf("%s: %s, want %s", field, got, want)
		}
	}
}

func checkTried(t *testing.T, r report, refused map[string]string) {
	t.Helper()
	if want := len(denied()); r.Refused != want {
		t.Errorf("%d of %d denied calls are refused", r.Refused, want)
	}
	for _, name := range slices.Sorted(maps.Keys(r.Tried)) {
		got, want := r.Tried[name], refused[name]
		if want == "" && got != "" || !strings.HasSuffix(got, want) {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
}

// statusField is a line's value in /proc/PID/status.
func statusField(status, name string) string {
	for line := range strings.Lines(status) {
		if value, ok := strings.CutPrefix(line, name+":"); ok {
			return strings.TrimSpace(value)
		}
	}
	return ""
}

func TestWhereFrom(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"etc", "run"} {
		if err := os.Mkdir(filepath.Join(dir, name), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	link := func(target, name string) string {
		path := filepath.Join(dir, "etc", name)
		if err := os.Symlink(target, path); err != nil {
			t.Fatal(err)
		}
		return path
	}
	in := func(name string) string { return filepath.Join(dir, name) }
	for path, want := range map[string][]string{
		in("etc/plain"):                           {in("etc")},
		link("../run/file", "relative"):           {in("etc"), in("run")},
		link(in("run")+"/resolve/file", "absent"): {in("etc"), in("run")},
		link("relative", "chain"):                 {in("etc"), in("etc"), in("run")},
		link("/nowhere/at/all", "nowhere"):        {in("etc")},
		link("loop", "loop"):                      slices.Repeat([]string{in("etc")}, 41),
	} {
		if got := WhereFrom(path); !slices.Equal(got, want) {
			t.Errorf("WhereFrom(%s) = %v, want %v", path, got, want)
		}
	}
}
