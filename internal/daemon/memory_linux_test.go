package daemon

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestMemoryProblem(t *testing.T) {
	const plenty, little = "MemTotal: 8000000 kB\nMemAvailable: 4000000 kB\nSwapFree: 0 kB\n", "MemTotal: 8000000 kB\nMemAvailable: 9000 kB\nSwapFree: 9000 kB\n"
	v1 := func(usage, limit string) map[string]string {
		return map[string]string{
			"memory.stat":           "active_file 7\ntotal_active_file 1000000\ntotal_inactive_file 1000000\nhierarchical_memory_limit " + limit + "\n",
			"memory.usage_in_bytes": usage + "\n",
		}
	}
	v2 := func(usage, limit string) map[string]string {
		return map[string]string{
			"memory.stat": "active_file 1000000\ninactive_file 1000000\n", "memory.current": usage + "\n", "memory.max": limit + "\n",
		}
	}
	for _, c := range []struct {
		name, meminfo, want string
		group               map[string]string
	}{
		{"v1 full", plenty, "uses 95 of the 100 MB", v1("101614720", "104857600")},
		{"v1 full of what can be dropped", plenty, "", v1("95000000", "104857600")},
		{"v1 without a limit", plenty, "", v1("101614720", "9223372036854771712")},
		{"v2 full", plenty, "uses 95 of the 100 MB", v2("101614720", "104857600")},
		{"v2 full of what can be dropped", plenty, "", v2("95000000", "104857600")},
		{"v2 without a limit", plenty, "", v2("101614720", "max")},
		{"the computer", little, "this computer has 17 MB", v2("101614720", "max")},
		{"damaged", plenty, "", map[string]string{"memory.stat": "total_rss\n\x00"}},
		{"nothing", "", "", nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			for name, text := range c.group {
				if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			meminfo := filepath.Join(dir, "meminfo")
			if err := os.WriteFile(meminfo, []byte(c.meminfo), 0o600); err != nil {
				t.Fatal(err)
			}
			if got := memoryProblem(dir, meminfo); (got == "") != (c.want == "") || !strings.Contains(got, c.want) {
				t.Errorf("memoryProblem = %q, want %q", got, c.want)
			}
		})
	}
	if got := memoryProblem("", "/nowhere"); got != "" {
		t.Errorf("without a control group: %q", got)
	}
}
