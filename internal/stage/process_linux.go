package stage

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/portolan-net/portolan/internal/testimage"
)

// MachineProcess returns the process of the machine whose command line, without
// directories, begins with what is given; as the host counts. It waits for one.
func (s *Stage) MachineProcess(t testing.TB, command string) int {
	t.Helper()
	own, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/pid", s.Status(t).Machine.PID))
	if err != nil {
		t.Fatal(err)
	}
	found := 0
	Eventually(t, 20*time.Second, command+" runs in the machine", func() bool {
		paths, _ := filepath.Glob("/proc/[0-9]*/cmdline")
		for _, path := range paths {
			dir := filepath.Dir(path)
			if ns, err := os.Readlink(dir + "/ns/pid"); err != nil || ns != own {
				continue
			}
			text, _ := os.ReadFile(path)
			args := strings.Split(string(bytes.TrimRight(text, "\x00")), "\x00")
			args[0] = filepath.Base(args[0])
			if strings.HasPrefix(strings.Join(args, " "), command) {
				found, _ = strconv.Atoi(filepath.Base(dir))
				return true
			}
		}
		return false
	})
	return found
}

// HostToolbox runs a command of the toolbox on the lab's host itself.
func (s *Stage) HostToolbox(t testing.TB, args ...string) testimage.Result {
	t.Helper()
	path := filepath.Join(s.Lab.Dir, "toolbox")
	if _, err := os.Stat(path); err != nil {
		if err := testimage.Build(t.Context(), path); err != nil {
			t.Fatal(err)
		}
	}
	out, errOut, _ := s.run(t, path, args...)
	result, err := testimage.Parse([]byte(out))
	if err != nil {
		t.Fatalf("toolbox %s: %v\n%s%s", strings.Join(args, " "), err, out, errOut)
	}
	return result
}
