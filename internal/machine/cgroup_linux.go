package machine

import (
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/portolan-net/portolan/internal/spec"
)

// cgroupRoot is where every distribution mounts control groups (cgroups(7)).
const cgroupRoot = "/sys/fs/cgroup"

// cgroup is one machine's control group: the same path in every hierarchy, v1
// or v2. The engine's containers come below it, because the machine's cgroup
// namespace begins there.
type cgroup struct {
	path string // "/portolan/default-1f0c3a5b"; "" for none
}

// machineCgroup is the group of a machine. An ordinary user may not make one.
func machineCgroup(cfg spec.Machine) cgroup {
	if cfg.Rootless {
		return cgroup{}
	}
	// Profiles of one name may live in several run directories at once.
	sum := crc32.ChecksumIEEE([]byte(cfg.Profile.RunDir))
	return cgroup{path: fmt.Sprintf("/portolan/%s-%08x", cfg.Profile.Name, sum)}
}

// MemoryGroup is the directory of the control group that counts the memory of
// the machine that cfg describes, of either version; "" for none.
func MemoryGroup(cfg spec.Machine) string {
	c := machineCgroup(cfg)
	if c.path == "" {
		return ""
	}
	for _, root := range []string{filepath.Join(cgroupRoot, "memory"), cgroupRoot} {
		dir := filepath.Join(root, c.path)
		if _, err := os.Stat(filepath.Join(dir, "memory.stat")); err == nil {
			return dir
		}
	}
	return ""
}

// hierarchies lists the mount points of all hierarchies.
func hierarchies() ([]string, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(cgroupRoot, &st); err != nil {
		return nil, fmt.Errorf("look at %s: %w; mount the control groups first", cgroupRoot, err)
	}
	if st.Type == unix.CGROUP2_SUPER_MAGIC {
		return []string{cgroupRoot}, nil
	}
	entries, err := os.ReadDir(cgroupRoot)
	if err != nil {
		return nil, err
	}
	var found []string
	for _, e := range entries {
		dir := filepath.Join(cgroupRoot, e.Name())
		if e.IsDir() && unix.Statfs(dir, &st) == nil &&
			(st.Type == unix.CGROUP_SUPER_MAGIC || st.Type == unix.CGROUP2_SUPER_MAGIC) {
			found = append(found, dir)
		}
	}
	if len(found) == 0 {
		return nil, fmt.Errorf("no control groups are mounted below %s; the engine needs them", cgroupRoot)
	}
	return found, nil
}

// join makes the group and puts the process into it.
func (c cgroup) join(pid int) error {
	if c.path == "" {
		return nil
	}
	roots, err := hierarchies()
	if err != nil {
		return err
	}
	for _, root := range roots {
		if err := c.makeIn(root); err != nil {
			return fmt.Errorf("make control group: %w", err)
		}
		procs := filepath.Join(root, c.path, "cgroup.procs")
		if err := os.WriteFile(procs, []byte(strconv.Itoa(pid)), 0); err != nil {
			return fmt.Errorf("join control group: %w", err)
		}
	}
	return nil
}

// makeIn makes the group in one hierarchy, able to limit what v1 would let it
// limit: each parent has a share in that, of either version.
func (c cgroup) makeIn(root string) error {
	dir := root
	for name := range strings.SplitSeq(strings.Trim(c.path, "/"), "/") {
		parent := dir
		dir = filepath.Join(dir, name)
		if root == cgroupRoot {
			handDown(parent)
		}
		if err := os.Mkdir(dir, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
		if root != cgroupRoot {
			if err := copyCpuset(parent, dir); err != nil {
				return err
			}
		}
	}
	return nil
}

// controllers are those of docker's limits.
var controllers = []string{"cpu", "cpuset", "hugetlb", "io", "memory", "pids"}

// handDown gives the groups in a v2 group the controllers that this has itself:
// they get none by themselves (kernel, cgroup-v2.rst, "Enabling and Disabling").
func handDown(dir string) {
	for _, name := range controllers {
		// One at a time: a controller that can't be had must not spoil the rest.
		_ = os.WriteFile(filepath.Join(dir, "cgroup.subtree_control"), []byte("+"+name), 0)
	}
}

// copyCpuset gives a v1 cpuset its parent's processors and memory nodes: a new one
// has none, and refuses processes (kernel, cgroup-v1/cpusets.rst).
func copyCpuset(parent, dir string) error {
	for _, file := range []string{"cpuset.cpus", "cpuset.mems"} {
		own, err := os.ReadFile(filepath.Join(dir, file))
		if errors.Is(err, fs.ErrNotExist) || strings.TrimSpace(string(own)) != "" {
			continue
		}
		value, err := os.ReadFile(filepath.Join(parent, file))
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(dir, file), value, 0); err != nil {
			return fmt.Errorf("prepare cpuset: %w", err)
		}
	}
	return nil
}

// removeWait bounds how long killed processes may take to leave their groups.
const removeWait = 5 * time.Second

// remove deletes the group and all below it once their processes are gone, and
// the common parent when this was the last machine.
func (c cgroup) remove() error {
	if c.path == "" {
		return nil
	}
	roots, err := hierarchies()
	if err != nil {
		return err
	}
	deadline := time.Now().Add(removeWait)
	for _, root := range roots {
		for {
			err := removeTree(filepath.Join(root, c.path))
			if err == nil {
				break
			}
			if time.Now().After(deadline) {
				return fmt.Errorf("remove control group: %w", err)
			}
			time.Sleep(10 * time.Millisecond)
		}
		_ = unix.Rmdir(filepath.Dir(filepath.Join(root, c.path))) // busy while another profile runs
	}
	return nil
}

// removeTree removes groups from the leaves up; their files go by themselves.
func removeTree(dir string) error {
	var dirs []string
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err == nil && d.IsDir() {
			dirs = append(dirs, path)
		}
		return err
	})
	for _, d := range slices.Backward(dirs) {
		if rmErr := unix.Rmdir(d); rmErr != nil && !errors.Is(rmErr, unix.ENOENT) {
			err = errors.Join(err, fmt.Errorf("remove %s: %w", d, rmErr))
		}
	}
	return err
}
