package guest

import "testing"

func TestV1Options(t *testing.T) {
	for super, want := range map[string]string{
		"rw,memory":             "memory",
		"rw,cpu,cpuacct":        "cpu,cpuacct",
		"rw,xattr,name=systemd": "xattr,none,name=systemd",
		"rw,name=systemd,release_agent=/lib/systemd/agent": "none,name=systemd",
	} {
		if got := v1Options(super); got != want {
			t.Errorf("v1Options(%q) = %q, want %q", super, got, want)
		}
	}
}
