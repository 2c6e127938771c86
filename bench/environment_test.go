package bench

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/portolan-net/portolan/bench/report"
	"github.com/portolan-net/portolan/internal/stage"
)

// raiseFiles lets programs have many descriptors, as far as this computer does.
func raiseFiles() {
	const wanted = 1 << 16
	_ = unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: wanted, Max: wanted}) // the results name the limit that holds
}

// environment records what the figures depend on.
func (r *recorder) environment(t testing.TB, s *stage.Stage) {
	t.Helper()
	fact := func(name, value string) { r.Environment = append(r.Environment, report.Fact{Name: name, Value: value}) }
	var uname unix.Utsname
	check(t, unix.Uname(&uname))
	fact("kernel", "Linux "+unix.ByteSliceToString(uname.Release[:]))
	fact("processor", fmt.Sprintf("%d × %s", runtime.NumCPU(), processor()))
	load, _ := os.ReadFile("/proc/loadavg") // "" says enough
	fact("load at the end, with the benchmarks' own", strings.Join(firstFields(string(load), 3), " "))
	var files unix.Rlimit
	check(t, unix.Getrlimit(unix.RLIMIT_NOFILE, &files))
	fact("descriptors for each process", fmt.Sprint(files.Max))
	for _, key := range []string{
		"net/ipv4/tcp_congestion_control", "net/core/default_qdisc", "net/ipv4/tcp_rmem", "net/ipv4/tcp_wmem",
		"net/core/rmem_max", "net/core/wmem_max", "net/core/rmem_default", "net/core/somaxconn", "fs/pipe-user-pages-soft",
	} {
		if text, err := os.ReadFile("/proc/sys/" + key); err == nil {
			fact(strings.ReplaceAll(key, "/", "."), strings.Join(strings.Fields(string(text)), " "))
		}
	}
	fact("Go", runtime.Version())
	fact("Portolan", firstLine(s.Command(t.Context(), s.Bin.Portolan, "version")))
	if version, status := s.TryDocker(t, "version", "--format", "{{.Server.Version}}"); status == 0 {
		fact("engine", strings.TrimSpace(version))
	}
	// Debian's pasta does not know its own version.
	fact("Debian's passt, unless pasta is another", firstLine(exec.CommandContext(t.Context(), "dpkg-query", "-W", "-f", "${Version}", "passt")))
	for _, command := range [][]string{{"pasta", "--version"}, {"slirp4netns", "--version"}, {"gvproxy", "-version"}, {"rootlesskit", "--version"}, {"wrk", "-v"}, {"nginx", "-v"}} {
		program, err := find(command[0])
		if command[0] == "nginx" {
			program, err = repository+"/bin/nginx", nil
		}
		if err != nil {
			fact(command[0], err.Error())
			continue
		}
		fact(command[0], firstLine(exec.CommandContext(t.Context(), program, command[1:]...))+", in "+strings.TrimPrefix(filepath.Dir(program), repository+"/"))
	}
}

// firstLine is what a program says first, on whichever output; some end with a
// failure after their version.
func firstLine(cmd *exec.Cmd) string {
	out, _ := cmd.CombinedOutput()
	line, _, _ := bytes.Cut(bytes.TrimSpace(out), []byte("\n"))
	return string(line)
}

func processor() string {
	text, _ := os.ReadFile("/proc/cpuinfo") // "" says enough
	for line := range strings.Lines(string(text)) {
		if name, value, found := strings.Cut(line, ":"); found && strings.TrimSpace(name) == "model name" {
			return strings.TrimSpace(value)
		}
	}
	return runtime.GOARCH
}

func firstFields(text string, n int) []string {
	fields := strings.Fields(text)
	return fields[:min(n, len(fields))]
}
