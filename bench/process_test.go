package bench

import (
	"fmt"
	"os"
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

// cpuSeconds is what a process has used so far (utime and stime of
// proc_pid_stat(5), in hundredths).
func cpuSeconds(t testing.TB, pid int) float64 {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	check(t, err)
	_, numbers, _ := strings.Cut(string(text), ") ") // the name may hold spaces
	fields := strings.Fields(numbers)
	var user, system float64
	if _, err := fmt.Sscan(fields[11]+" "+fields[12], &user, &system); err != nil {
		t.Fatalf("read CPU time of process %d: %v", pid, err)
	}
	return (user + system) / 100
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
