package launch

import (
	"os"
	"path/filepath"
	"strconv"
)

// Orphans returns the processes that hold a lock at path whose file was removed
// under them: keeper and daemon, which no lock names any more.
func Orphans(path string) []int {
	processes, _ := filepath.Glob("/proc/[0-9]*") // errs only for a bad pattern
	var found []int
	for _, process := range processes {
		pid, err := strconv.Atoi(filepath.Base(process))
		if err == nil && pid != os.Getpid() && holdsRemoved(process, path) {
			found = append(found, pid)
		}
	}
	return found
}

// holdsRemoved looks for what proc_pid_fd(5) says of a removed file. What can't
// be read is another user's.
func holdsRemoved(process, path string) bool {
	fds, _ := os.ReadDir(filepath.Join(process, "fd"))
	for _, fd := range fds {
		if target, err := os.Readlink(filepath.Join(process, "fd", fd.Name())); err == nil && target == path+" (deleted)" {
			return true
		}
	}
	return false
}
