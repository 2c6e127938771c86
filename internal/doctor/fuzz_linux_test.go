package doctor

import (
	"strings"
	"testing"
)

func FuzzParseCgroups(f *testing.F) {
	f.Add("36 25 0:30 / /sys/fs/cgroup/cpu rw,nosuid - cgroup cgroup rw,cpu,cpuacct\n")
	f.Add("25 1 0:22 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw,nsdelegate\n37 25 0:31 / / rw - cgroup none rw,name=systemd")
	f.Add("x - cgroup\n - - - cgroup a b")
	f.Fuzz(func(t *testing.T, mountinfo string) {
		v1, v2 := parseCgroups(mountinfo)
		if v2 && !strings.Contains(mountinfo, "cgroup2") || v1["rw"] {
			t.Errorf("parseCgroups(%q) = %v, %v", mountinfo, v1, v2)
		}
	})
}
