package machine

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// What an ordinary user's machine has in place of root's:
//
//	                root                        ordinary user
//	router helper   new network namespace       in a new user namespace too, whose ids
//	                                            newuidmap and newgidmap set (subuid(5))
//	PID 1           new namespaces              in a user namespace inside the helper's, with
//	                                            the same ids: its root has no power over the router
//	sockets         hidden in the machine       hidden before it too, so that its root can't uncover
//	                                            them (nested_linux.go)
//	control group   /portolan/PROFILE           none: containers have no resource limits
//	dockerd         as it is                    --rootless
//	down --purge    deletes files               deletes them as root of a user namespace: what
//	                                            containers wrote belongs to subordinate ids
//
// Everything else is the same code.

// idRange is a range of subordinate ids, a line of /etc/subuid or /etc/subgid.
type idRange struct {
	owner        string // name or id
	start, count int
}

// minSubordinate is what images commonly need: ids up to nobody, 65534.
const minSubordinate = 65535

// firstSubordinate is where useradd(8) begins (login.defs(5), SUB_UID_MIN).
const firstSubordinate = 100000

// readSubordinates reads subuid(5) or subgid(5); without the file there are none.
func readSubordinates(path string) ([]idRange, error) {
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("find subordinate ids: %w", err)
	}
	return parseSubordinates(string(text)), nil
}

// parseSubordinates leaves out lines that mean nothing, as newuidmap does. Ids
// have 32 bits.
func parseSubordinates(text string) []idRange {
	var ranges []idRange
	for line := range strings.Lines(text) {
		fields := strings.Split(strings.TrimSpace(line), ":")
		if len(fields) != 3 {
			continue
		}
		start, startErr := strconv.ParseUint(fields[1], 10, 32)
		count, countErr := strconv.ParseUint(fields[2], 10, 32)
		if startErr == nil && countErr == nil && start+count <= 1<<32 {
			ranges = append(ranges, idRange{fields[0], int(start), int(count)})
		}
	}
	return ranges
}

// findSubordinate reads the first range of u that is large enough.
func findSubordinate(path string, u *user.User) (idRange, error) {
	ranges, err := readSubordinates(path)
	if err != nil {
		return idRange{}, err
	}
	free := firstSubordinate
	for _, r := range ranges {
		if (r.owner == u.Username || r.owner == u.Uid) && r.count >= minSubordinate {
			return r, nil
		}
		free = max(free, r.start+r.count)
	}
	flag := "--add-subuids"
	if filepath.Base(path) == "subgid" {
		flag = "--add-subgids"
	}
	return idRange{}, fmt.Errorf("%s has no range of %d ids for user %s; as root, type: usermod %s %d-%d %s",
		path, minSubordinate+1, u.Username, flag, free, free+minSubordinate, u.Username)
}

// idMapping is one call of newuidmap or newgidmap.
type idMapping struct {
	program string   // absolute path
	args    []string // after the process: triples of inside, outside, count
}

// planIDs finds out how the calling user becomes root of a user namespace, its
// subordinate ids following from 1 on. It names all that is missing at once.
func planIDs() ([]idMapping, error) {
	u, err := user.Current()
	if err != nil {
		return nil, fmt.Errorf("find the current user: %w", err)
	}
	var plan []idMapping
	var missing []error
	for _, kind := range []struct{ program, file, own string }{
		{"newuidmap", "/etc/subuid", u.Uid},
		{"newgidmap", "/etc/subgid", u.Gid},
	} {
		path, err := exec.LookPath(kind.program)
		if err != nil {
			missing = append(missing, fmt.Errorf("%s is not on PATH; as root, type: apt-get install uidmap (elsewhere the package is shadow-utils or shadow)", kind.program))
		}
		ids, err := findSubordinate(kind.file, u)
		if err != nil {
			missing = append(missing, err)
		}
		plan = append(plan, idMapping{path, []string{
			"0", kind.own, "1", "1", strconv.Itoa(ids.start), strconv.Itoa(ids.count),
		}})
	}
	return plan, errors.Join(missing...)
}

// apply maps the ids of process pid, in a new user namespace.
func (m idMapping) apply(pid int) error {
	out, err := exec.Command(m.program, append([]string{strconv.Itoa(pid)}, m.args...)...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s: %w: %s; it must be setuid root, or have its file capability: as root, type: chmod u+s %s",
			m.program, err, strings.TrimSpace(string(out)), m.program)
	}
	return nil
}

// Words after HelperCommand that make the process something else than the
// router helper.
const (
	// awaitWord, before the words of any command, makes a process in a new user
	// namespace wait until its ids are mapped, and then be that command.
	awaitWord = "await-ids"
	// removeWord makes it delete the directory that follows.
	removeWord = "remove-tree"
)

// What a process of HelperCommand is given: the report or nothing, then the
// gate on which awaitWord waits.
const (
	reportFD = 3
	gateFD   = 4
)

// Helper is the process of HelperCommand with args after it: the router helper,
// or what else an ordinary user needs a user namespace for.
func Helper(ctx context.Context, args []string, log *slog.Logger) error {
	switch {
	case len(args) > 1 && args[0] == awaitWord:
		return execWithIDs(args[1:])
	case len(args) == 2 && args[0] == removeWord:
		return os.RemoveAll(args[1])
	case len(args) == 1 && args[0] == resumeWord:
		return runResumed(ctx, os.Stdin, os.NewFile(reportFD, "report"), log)
	case len(args) == 1:
		return runHelper(ctx, args[0], os.NewFile(reportFD, "report"), log)
	}
	return errors.New("run router helper: it is started by portolan, not by hand; type: portolan up")
}

// execWithIDs is the first half of a process that begins in a user namespace
// without ids, where it has no capability. When its ids are mapped it executes
// this program with args, as root of the namespace; only an error returns.
func execWithIDs(args []string) error {
	gate := os.NewFile(gateFD, "gate")
	if n, err := gate.Read(make([]byte, 1)); n != 1 {
		return fmt.Errorf("wait for ids: %w", err)
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	return unix.Exec(self, append([]string{self}, args...), os.Environ())
}

// startMapped starts this program's command cmd with file as descriptor 3, in
// new namespaces besides: for an ordinary user as root of a new user namespace.
// When it returns an error, the process may have been started; it ends by
// itself then.
func startMapped(cmd *exec.Cmd, file *os.File, namespaces uintptr) error {
	cmd.ExtraFiles = []*os.File{file}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Cloneflags: namespaces}
	if os.Geteuid() == 0 {
		return cmd.Start()
	}
	plan, err := planIDs()
	if err != nil {
		return err
	}
	gate, open, err := os.Pipe()
	if err != nil {
		return err
	}
	defer gate.Close()
	defer open.Close()
	cmd.Args = append([]string{cmd.Args[0], HelperCommand, awaitWord}, cmd.Args[1:]...)
	cmd.ExtraFiles = append(cmd.ExtraFiles, gate)
	cmd.SysProcAttr.Cloneflags |= unix.CLONE_NEWUSER
	if err := cmd.Start(); err != nil {
		return withNamespaceHint(fmt.Errorf("make user namespace: %w", err))
	}
	for _, m := range plan {
		if err := m.apply(cmd.Process.Pid); err != nil {
			return withNamespaceHint(err) // the process ends when the gate closes
		}
	}
	_, err = open.Write([]byte{1})
	return err
}

// RunMapped runs this program with args and returns what it wrote: for an
// ordinary user as root of a user namespace in which the subordinate ids count.
func RunMapped(ctx context.Context, args ...string) ([]byte, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	nothing, err := os.Open(os.DevNull)
	if err != nil {
		return nil, err
	}
	defer nothing.Close()
	var out, said bytes.Buffer
	cmd := exec.CommandContext(ctx, self, args...)
	cmd.Stdout, cmd.Stderr = &out, &said
	err = startMapped(cmd, nothing, 0)
	if cmd.Process != nil {
		if waitErr := cmd.Wait(); waitErr != nil && err == nil {
			err = fmt.Errorf("%s: %w: %s", strings.Join(args, " "), waitErr, strings.TrimSpace(said.String()))
			if os.Geteuid() != 0 {
				err = withNamespaceHint(err)
			}
		}
	}
	return out.Bytes(), err
}

// withNamespaceHint adds to an ordinary user's error which switch forbids user
// namespaces here, or capabilities in them.
func withNamespaceHint(err error) error {
	if hint := namespaceHint("/proc/sys"); hint != "" {
		return fmt.Errorf("%w; %s", err, hint)
	}
	return err
}

// namespaceHint names the switch, below the directory of sysctls, by which this
// system keeps user namespaces from ordinary users, and what to type; "" when
// there is none.
//
// The first is Debian's, before 11 its default; the second is every kernel's,
// 0 by default in RHEL 7 (namespaces(7)); the third is Ubuntu's since 23.10,
// which allows the namespace and then no capability in it.
func namespaceHint(sysctls string) string {
	for _, s := range []struct{ name, bad, fix string }{
		{"kernel/unprivileged_userns_clone", "0", "sysctl -w kernel.unprivileged_userns_clone=1"},
		{"user/max_user_namespaces", "0", "sysctl -w user.max_user_namespaces=15000"},
		{"kernel/apparmor_restrict_unprivileged_userns", "1", "sysctl -w kernel.apparmor_restrict_unprivileged_userns=0   (or give portolan alone an AppArmor profile: docs/rootless.md)"},
	} {
		text, err := os.ReadFile(filepath.Join(sysctls, s.name))
		if err == nil && strings.TrimSpace(string(text)) == s.bad {
			return "this system keeps user namespaces from ordinary users; as root, type: " + s.fix
		}
	}
	return ""
}

// RemoveTree deletes a directory of the user's with all that containers wrote
// below it.
func RemoveTree(ctx context.Context, dir string) error {
	err := os.RemoveAll(dir)
	if os.Geteuid() == 0 || !errors.Is(err, fs.ErrPermission) {
		return err
	}
	_, err = RunMapped(ctx, HelperCommand, removeWord, dir)
	return err
}
