package lab

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// process is one that runs in the lab.
type process struct {
	pid  int
	args string
}

func (p process) String() string { return fmt.Sprintf("process %d: %s", p.pid, p.args) }

// processes lists what runs in the lab: every process with the lab's mark in
// its environment or mount table (namespaces made from the host's mounts keep
// the host's resolv.conf), or in a network namespace of the lab. A process that
// ends meanwhile is left out, and so is the test process.
func (l *Lab) processes() []process {
	spaces := l.netNamespaces()
	var found []process
	for _, pid := range pids() {
		dir := filepath.Join("/proc", strconv.Itoa(pid))
		if pid == os.Getpid() || l.watchdog != nil && pid == l.watchdog.cmd.Process.Pid {
			continue
		}
		space, _ := os.Readlink(filepath.Join(dir, "ns/net"))
		if slices.Contains(spaces, space) || l.marked(dir, "environ") || l.marked(dir, "mountinfo") {
			found = append(found, process{pid, commandLine(dir)})
		}
	}
	return found
}

func (l *Lab) marked(procDir, file string) bool {
	text, err := os.ReadFile(filepath.Join(procDir, file))
	return err == nil && bytes.Contains(text, []byte(l.Dir))
}

// netNamespaces names the nodes' namespaces as /proc/PID/ns/net does.
func (l *Lab) netNamespaces() []string {
	var names []string
	for _, n := range l.nodes() {
		if name, err := os.Readlink(n.NetNS()); err == nil {
			names = append(names, name)
		}
	}
	return names
}

// awaitQuiet waits until no process runs in the lab, and returns those that
// still do when the time is over.
func (l *Lab) awaitQuiet(grace time.Duration) []process {
	for end := time.Now().Add(grace); ; time.Sleep(20 * time.Millisecond) {
		if found := l.processes(); len(found) == 0 || time.Now().After(end) {
			return found
		}
	}
}

// pids lists all processes.
func pids() []int {
	entries, _ := os.ReadDir("/proc") // /proc is there, or nothing here works
	var all []int
	for _, e := range entries {
		if pid, err := strconv.Atoi(e.Name()); err == nil {
			all = append(all, pid)
		}
	}
	return all
}

// commandLine is a process's arguments, or its name for want of them.
func commandLine(procDir string) string {
	line, _ := os.ReadFile(filepath.Join(procDir, "cmdline"))
	if len(line) == 0 {
		line, _ = os.ReadFile(filepath.Join(procDir, "comm"))
	}
	return strings.TrimSpace(strings.ReplaceAll(string(line), "\x00", " "))
}
