package machine

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"os/user"
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
//	control group   /portolan/PROFILE           none: containers have no resource limits
//	dockerd         as it is                    --rootless
//
// Everything else is the same code.

// subordinate is a user's range of ids in /etc/subuid or /etc/subgid.
type subordinate struct{ start, count int }

// minSubordinate is what images commonly need: ids up to nobody, 65534.
const minSubordinate = 65535

// findSubordinate reads the first range of u that is large enough.
func findSubordinate(path string, u *user.User) (subordinate, error) {
	missing := fmt.Errorf("%s has no range of %d ids for user %s; as root, type: usermod --add-subuids 100000-165535 --add-subgids 100000-165535 %s",
		path, minSubordinate+1, u.Username, u.Username)
	file, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return subordinate{}, missing
	}
	if err != nil {
		return subordinate{}, err
	}
	defer file.Close()
	for lines := bufio.NewScanner(file); lines.Scan(); {
		fields := strings.Split(strings.TrimSpace(lines.Text()), ":")
		if len(fields) != 3 || (fields[0] != u.Username && fields[0] != u.Uid) {
			continue
		}
		start, startErr := strconv.Atoi(fields[1])
		count, countErr := strconv.Atoi(fields[2])
		if startErr == nil && countErr == nil && count >= minSubordinate {
			return subordinate{start, count}, nil
		}
	}
	return subordinate{}, missing
}

// mapIDs gives process pid, in a new user namespace, the calling user as root
// and its subordinate ids from 1 on.
func mapIDs(pid int) error {
	u, err := user.Current()
	if err != nil {
		return fmt.Errorf("find the current user: %w", err)
	}
	for _, kind := range []struct{ program, file, own string }{
		{"newuidmap", "/etc/subuid", u.Uid},
		{"newgidmap", "/etc/subgid", u.Gid},
	} {
		ids, err := findSubordinate(kind.file, u)
		if err != nil {
			return err
		}
		path, err := exec.LookPath(kind.program)
		if err != nil {
			return fmt.Errorf("%s is not installed; as root, type: apt-get install uidmap", kind.program)
		}
		out, err := exec.Command(path, strconv.Itoa(pid), "0", kind.own, "1",
			"1", strconv.Itoa(ids.start), strconv.Itoa(ids.count)).CombinedOutput()
		if err != nil {
			return fmt.Errorf("%s: %w: %s; is the program setuid root, or does it have its file capability?", path, err, strings.TrimSpace(string(out)))
		}
	}
	return nil
}

// waitIDs, before the arguments of a process in a new user namespace, makes it
// wait until its ids are mapped; see AwaitIDs.
const waitIDs = "await-ids"

// idGate is the descriptor on which such a process waits, after stdio and the
// report.
const idGate = 4

// WaitsForIDs reports whether the helper's arguments are those of its first
// half, and returns those of the second.
func WaitsForIDs(args []string) ([]string, bool) {
	if len(args) > 0 && args[0] == waitIDs {
		return args[1:], true
	}
	return args, false
}

// AwaitIDs is the first half of a process that begins in a user namespace
// without ids, where it has no capability. When its ids are mapped it executes
// itself again, as root of the namespace; only an error returns.
func AwaitIDs(args []string) error {
	gate := os.NewFile(idGate, "gate")
	if n, err := gate.Read(make([]byte, 1)); n != 1 {
		return fmt.Errorf("wait for ids: %w", err)
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	return unix.Exec(self, append([]string{self, HelperCommand}, args...), os.Environ())
}

// startMapped starts `portolan router-helper args...` with files from
// descriptor 3 on: in a network namespace of its own if newNet says so and, for
// an ordinary user, as root of a new user namespace.
func startMapped(cmd *exec.Cmd, newNet bool) error {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if newNet {
		cmd.SysProcAttr.Cloneflags = unix.CLONE_NEWNET
	}
	if os.Geteuid() == 0 {
		return cmd.Start()
	}
	gate, open, err := os.Pipe()
	if err != nil {
		return err
	}
	defer gate.Close()
	defer open.Close()
	cmd.Args = append([]string{cmd.Args[0], HelperCommand, waitIDs}, cmd.Args[2:]...)
	cmd.ExtraFiles = append(cmd.ExtraFiles, gate)
	cmd.SysProcAttr.Cloneflags |= unix.CLONE_NEWUSER
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("make user namespace: %w; %s", err, userNamespaceHint())
	}
	if err := mapIDs(cmd.Process.Pid); err != nil {
		return err // the process ends when the gate closes
	}
	_, err = open.Write([]byte{1})
	return err
}

// userNamespaceHint names the switch that forbids user namespaces here.
func userNamespaceHint() string {
	for _, s := range []struct{ file, bad, fix string }{
		{"/proc/sys/kernel/unprivileged_userns_clone", "0", "sysctl kernel.unprivileged_userns_clone=1"},
		{"/proc/sys/user/max_user_namespaces", "0", "sysctl user.max_user_namespaces=15000"},
		{"/proc/sys/kernel/apparmor_restrict_unprivileged_userns", "1", "sysctl kernel.apparmor_restrict_unprivileged_userns=0"},
	} {
		if text, err := os.ReadFile(s.file); err == nil && strings.TrimSpace(string(text)) == s.bad {
			return "this system switches user namespaces off for ordinary users; as root, type: " + s.fix
		}
	}
	return "see: portolan doctor"
}
