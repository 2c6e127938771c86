package daemon

import (
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestStateProblem(t *testing.T) {
	if got := stateProblem(t.TempDir()); got != "" {
		t.Errorf("a directory with room: %q", got)
	}
	if got := stateProblem("/nowhere"); !strings.Contains(got, "/nowhere") {
		t.Errorf("no directory: %q", got)
	}
	if got := stateProblem("/proc"); got == "" { // it has no room at all
		t.Error("a file system without room is no problem")
	}
}

// Without a single descriptor left, a spareListener accepts and its connection
// can be answered; without one in use, nothing is said about descriptors.
func TestSpareListener(t *testing.T) {
	if got := descriptorProblem(); got != "" {
		t.Errorf("before: %q", got)
	}
	path := filepath.Join(t.TempDir(), "s")
	plain, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	listener := newSpareListener(plain)
	defer listener.Close()
	client, err := net.Dial("unix", path) // waits in the backlog
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()

	var was unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &was); err != nil {
		t.Fatal(err)
	}
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	few := unix.Rlimit{Cur: uint64(len(entries) + 4), Max: was.Max}
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &few); err != nil {
		t.Fatal(err)
	}
	defer unix.Setrlimit(unix.RLIMIT_NOFILE, &was)
	var taken []*os.File
	defer func() {
		for _, file := range taken {
			_ = file.Close()
		}
	}()
	for {
		file, err := os.Open(os.DevNull)
		if err != nil {
			break
		}
		taken = append(taken, file)
	}
	if got := descriptorProblem(); !strings.Contains(got, "prlimit") {
		t.Errorf("with no descriptor left: %q", got)
	}
	conn, err := listener.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(time.Second))
	if _, err := conn.Write([]byte("x")); err != nil {
		t.Error(err)
	}
}
