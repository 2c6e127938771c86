package doctor

import (
	"net"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/google/nftables/expr"
)

// The tests of the project run as root on a kernel that can carry a machine, so
// here every feature has to be found; and nothing may leak out of the scratch
// namespaces.
func TestKernelChecks(t *testing.T) {
	links, mounts := interfaces(t), read(t, "/proc/self/mountinfo")
	findings := kernelChecks(t.Context(), Options{})
	if want := len(probes()) + 1; len(findings) != want {
		t.Fatalf("%d findings, want %d: %v", len(findings), want, findings)
	}
	for _, f := range findings {
		if f.Result != OK {
			t.Errorf("%+v", f)
		}
	}
	if now := interfaces(t); !slices.Equal(now, links) {
		t.Errorf("interfaces were %v, are %v", links, now)
	}
	if now := read(t, "/proc/self/mountinfo"); now != mounts {
		t.Errorf("mounts were\n%s\nare\n%s", mounts, now)
	}
	if left, _ := filepath.Glob(filepath.Join(os.TempDir(), "portolan-doctor-*")); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

// A probe can fail: the kernel refuses what it does not know.
func TestProbeFails(t *testing.T) {
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // ends with the namespace
		if err := unshare(); err != nil {
			done <- nil
			return
		}
		done <- tryRule("bad", &expr.Fib{Register: 1, FlagDADDR: true, FlagSADDR: true, ResultADDRTYPE: true})
	}()
	if err := <-done; err == nil {
		t.Error("a fib of source and destination at once is accepted")
	}
}

func interfaces(t *testing.T) []string {
	t.Helper()
	list, err := net.Interfaces()
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, i := range list {
		names = append(names, i.Name)
	}
	return names
}

func read(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func TestParseCgroups(t *testing.T) {
	const v1Text = `1 2 0:1 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu,cpuacct
1 2 0:2 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,name=systemd
1 2 0:3 / / rw - ext4 /dev/cgroup2 rw
`
	v1, v2 := parseCgroups(v1Text)
	if v2 || len(v1) != 2 || !slices.Equal(v1.missing("cpu", "memory", "cpuacct"), []string{"memory"}) {
		t.Errorf("parseCgroups = %v, %v", v1, v2)
	}
	if v1, v2 := parseCgroups("1 2 0:1 / /sys/fs/cgroup rw shared:4 - cgroup2 cgroup2 rw\n"); len(v1) != 0 || !v2 {
		t.Errorf("parseCgroups = %v, %v, want v2 alone", v1, v2)
	}
}

func TestToolChecks(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	dir := t.TempDir()
	for _, f := range toolChecks(t.Context(), Options{EngineDirs: []string{dir}}) {
		if f.Result == OK {
			t.Errorf("found on an empty PATH: %+v", f)
		}
	}
	docker := filepath.Join(dir, "docker")
	if err := os.WriteFile(docker, []byte("#!/bin/sh\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	if f := find(t, toolChecks(t.Context(), Options{EngineDirs: []string{dir}}), "docker"); f.Detail != docker {
		t.Errorf("docker = %+v", f)
	}
	iptables := filepath.Join(dir, "iptables")
	if err := os.WriteFile(iptables, []byte("#!/bin/sh\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	if f := find(t, toolChecks(t.Context(), Options{ToolDirs: []string{dir}}), "iptables"); f.Detail != iptables {
		t.Errorf("iptables = %+v", f)
	}
}

func TestStateCheck(t *testing.T) {
	o := options(t)
	if f := stateCheck(o); !strings.Contains(f.Detail, o.Profile.StateDir) || !strings.Contains(f.Detail, "GB free") {
		t.Errorf("stateCheck = %+v", f)
	}
	if _, err := os.Stat(o.Profile.StateDir); !os.IsNotExist(err) {
		t.Errorf("the check makes the directory: %v", err)
	}
	o.Profile.StateDir = "/proc/portolan" // not even root writes there
	if f := stateCheck(o); f.Result != Fail {
		t.Errorf("stateCheck in /proc = %+v", f)
	}
}
