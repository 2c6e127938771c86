package daemon

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// spareMemory is what a computer must have left, in kB; below that the kernel
// soon kills processes.
const spareMemory = 64 << 10

// memoryProblem says that the machine has come near the limit of its control
// group, whose directory group is ("" for none), or the computer to its own end.
func memoryProblem(group, meminfo string) string {
	if used, limit := groupMemory(group); limit > 0 && used >= limit/10*9 {
		return fmt.Sprintf("the machine uses %d of the %d MB of memory that its control group %s allows: the kernel kills processes in it, containers or the engine; stop containers, or raise the limit there",
			used>>20, limit>>20, group)
	}
	if text, err := os.ReadFile(meminfo); err == nil {
		values := memoryValues(string(text))
		available, known := values["MemAvailable:"]
		if left := available + values["SwapFree:"]; known && left < spareMemory {
			return fmt.Sprintf("this computer has %d MB of memory left: the kernel soon kills processes, in the machine and outside; stop containers or other programs", left>>10)
		}
	}
	return ""
}

// groupMemory returns what a control group uses and may use, in bytes, of either
// version (kernel, cgroup-v1/memory.rst and cgroup-v2.rst). limit is 0 when
// there is none or it can't be read. What the kernel can drop does not count.
func groupMemory(group string) (used, limit uint64) {
	if group == "" {
		return 0, 0
	}
	text, err := os.ReadFile(filepath.Join(group, "memory.stat"))
	if err != nil {
		return 0, 0
	}
	stat, prefix := memoryValues(string(text)), ""
	used, v2 := memoryNumber(group, "memory.current")
	if v2 {
		limit, _ = memoryNumber(group, "memory.max")
	} else {
		used, _ = memoryNumber(group, "memory.usage_in_bytes")
		limit, prefix = stat["hierarchical_memory_limit"], "total_"
	}
	if limit >= 1<<62 { // v1 has no word for none
		limit = 0
	}
	return used - min(used, stat[prefix+"active_file"]+stat[prefix+"inactive_file"]), limit
}

// memoryNumber reads a file of one number; "max" is none.
func memoryNumber(dir, name string) (uint64, bool) {
	text, err := os.ReadFile(filepath.Join(dir, name))
	if err != nil {
		return 0, false
	}
	n, err := strconv.ParseUint(strings.TrimSpace(string(text)), 10, 64)
	return n, err == nil
}

// memoryValues reads lines of a name and a number.
func memoryValues(text string) map[string]uint64 {
	values := map[string]uint64{}
	for line := range strings.Lines(text) {
		if fields := strings.Fields(line); len(fields) >= 2 {
			if n, err := strconv.ParseUint(fields[1], 10, 64); err == nil {
				values[fields[0]] = n
			}
		}
	}
	return values
}
