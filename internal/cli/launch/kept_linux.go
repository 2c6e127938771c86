package launch

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// kept returns the daemons of keepers that hold the lock at path. Their lock is
// the one of whoever started the keeper, which therefore can't ask the lock.
func kept(path string) []int {
	processes, _ := filepath.Glob("/proc/[0-9]*") // errs only for a bad pattern
	var found []int
	for _, process := range processes {
		target, err := os.Readlink(filepath.Join(process, "fd", strconv.Itoa(LockFD)))
		if err != nil || target != path {
			continue
		}
		text, err := os.ReadFile(filepath.Join(process, "cmdline"))
		args := strings.Split(string(text), "\x00")
		pid, numberErr := strconv.Atoi(filepath.Base(process))
		if err == nil && numberErr == nil && slices.Contains(args, KeptFlag) && slices.Contains(args, fmt.Sprintf("--lock-fd=%d", LockFD)) {
			found = append(found, pid)
		}
	}
	return found
}
