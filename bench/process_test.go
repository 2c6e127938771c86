package bench

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// residentMiB is VmRSS (proc_pid_status(5)) of a process.
func residentMiB(t testing.TB, pid int) float64 {
	t.Helper()
	var kib float64
	if _, err := fmt.Sscan(field(t, pid, "VmRSS"), &kib); err != nil {
		t.Fatalf("read memory of process %d: %v", pid, err)
	}
	return kib / 1024
}

// shareMiB is the proportional memory of processes together: Pss of smaps_rollup
// (proc_pid_smaps(5)). One that has ended has none.
func shareMiB(t testing.TB, pids ...int) (mebibytes float64) {
	t.Helper()
	for _, pid := range pids {
		text, _ := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
		for line := range strings.Lines(string(text)) {
			var kib float64
			if value, found := strings.CutPrefix(line, "Pss:"); found {
				_, err := fmt.Sscan(value, &kib)
				check(t, err)
			}
			mebibytes += kib / 1024
		}
	}
	return mebibytes
}

// cpuSeconds is what a process has used so far (utime and stime of
// proc_pid_stat(5), in hundredths); 0 when it has ended.
func cpuSeconds(pid int) float64 {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0
	}
	_, numbers, _ := strings.Cut(string(text), ") ") // the name may hold spaces
	fields := strings.Fields(numbers)
	user, _ := strconv.ParseFloat(fields[11], 64) // the kernel writes numbers
	system, _ := strconv.ParseFloat(fields[12], 64)
	return (user + system) / 100
}

// descriptors is how many files a process has open.
func descriptors(t testing.TB, pid int) float64 {
	t.Helper()
	files, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	check(t, err)
	return float64(len(files))
}

// children are a process's child processes with that name (comm), and theirs.
func children(pid int, name string) (found []int) {
	tasks, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid)) // the pattern is right
	for _, task := range tasks {
		text, _ := os.ReadFile(task) // it may have ended
		for field := range strings.FieldsSeq(string(text)) {
			child, _ := strconv.Atoi(field) // the kernel writes numbers
			if comm, _ := os.ReadFile(fmt.Sprintf("/proc/%d/comm", child)); strings.TrimSpace(string(comm)) == name {
				found = append(found, child)
			}
			found = append(found, children(child, name)...)
		}
	}
	return found
}

func field(t testing.TB, pid int, key string) string {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	check(t, err)
	for line := range strings.Lines(string(text)) {
		if value, found := strings.CutPrefix(line, key+":"); found {
			return strings.TrimSpace(value)
		}
	}
	t.Fatalf("process %d has no %s", pid, key)
	return ""
}
