package guest

import (
	"bufio"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

const cgroupRoot = "/sys/fs/cgroup"

// cgroupLayout is how a host mounts its control groups: one v2 hierarchy, or a
// directory with hierarchies and symbolic links such as cpu -> cpu,cpuacct.
type cgroupLayout struct {
	unified bool
	links   map[string]string
	mounts  map[string]string // directory to mount options; "" is v2's
}

func readCgroupLayout() (cgroupLayout, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(cgroupRoot, &st); err != nil {
		return cgroupLayout{}, fmt.Errorf("look at %s: %w", cgroupRoot, err)
	}
	if st.Type == unix.CGROUP2_SUPER_MAGIC {
		return cgroupLayout{unified: true}, nil
	}
	links, mounts, err := v1Layout()
	return cgroupLayout{links: links, mounts: mounts}, err
}

// mount mounts the hierarchies anew, so that their roots are the machine's own
// groups; the calling thread must have unshared its cgroup namespace. Hybrid
// and v1 hosts get the same layout again (cgroups(7)).
func (l cgroupLayout) mount() error {
	const flags = unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC
	if l.unified {
		if err := unix.Mount("cgroup2", cgroupRoot, "cgroup2", flags, ""); err != nil {
			return fmt.Errorf("mount control groups: %w", err)
		}
		return delegate()
	}
	if err := unix.Mount("tmpfs", cgroupRoot, "tmpfs", flags, "mode=0755"); err != nil {
		return fmt.Errorf("mount tmpfs on %s: %w", cgroupRoot, err)
	}
	for dir, options := range l.mounts {
		fstype := "cgroup"
		if options == "" {
			fstype = "cgroup2"
		}
		target := filepath.Join(cgroupRoot, dir)
		if err := os.Mkdir(target, 0o755); err != nil {
			return err
		}
		if err := unix.Mount(fstype, target, fstype, flags, options); err != nil {
			return fmt.Errorf("mount control group %s: %w", dir, err)
		}
	}
	for name, dest := range l.links {
		if err := os.Symlink(dest, filepath.Join(cgroupRoot, name)); err != nil {
			return err
		}
	}
	return nil
}

// v1Layout reads the host's layout: mounted directories with their mount
// options, and symbolic links such as cpu -> cpu,cpuacct.
func v1Layout() (links, mounts map[string]string, err error) {
	file, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return nil, nil, err
	}
	defer file.Close()
	links, mounts = map[string]string{}, map[string]string{}
	for lines := bufio.NewScanner(file); lines.Scan(); {
		before, after, _ := strings.Cut(lines.Text(), " - ")
		fields, super := strings.Fields(before), strings.Fields(after)
		if len(fields) < 5 || len(super) < 3 {
			continue
		}
		dir, below := strings.CutPrefix(fields[4], cgroupRoot+"/")
		switch {
		case !below || strings.Contains(dir, "/"):
		case super[0] == "cgroup2":
			mounts[dir] = ""
		case super[0] == "cgroup":
			mounts[dir] = v1Options(super[2])
		}
	}
	entries, err := os.ReadDir(cgroupRoot)
	if err != nil {
		return nil, nil, err
	}
	for _, e := range entries {
		if dest, err := os.Readlink(filepath.Join(cgroupRoot, e.Name())); err == nil {
			links[e.Name()] = dest
		}
	}
	return links, mounts, nil
}

// v1Options keeps the controllers and the name of a hierarchy's super options.
func v1Options(super string) string {
	var kept []string
	for option := range strings.SplitSeq(super, ",") {
		switch {
		case option == "rw" || option == "ro", strings.HasPrefix(option, "release_agent="):
		case strings.HasPrefix(option, "name="):
			kept = append(kept, "none", option)
		default:
			kept = append(kept, option)
		}
	}
	return strings.Join(kept, ",")
}

// delegate moves this process to a leaf and hands all controllers to the groups
// beside it: a v2 group has either processes or controllers (kernel,
// cgroup-v2.rst, "No Internal Process Constraint").
func delegate() error {
	leaf := filepath.Join(cgroupRoot, "init")
	if err := os.MkdirAll(leaf, 0o755); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(leaf, "cgroup.procs"), []byte(strconv.Itoa(os.Getpid())), 0); err != nil {
		return fmt.Errorf("join leaf control group: %w", err)
	}
	names, err := os.ReadFile(filepath.Join(cgroupRoot, "cgroup.controllers"))
	if err != nil {
		return err
	}
	for name := range strings.FieldsSeq(string(names)) {
		// One at a time: a controller that can't be had must not spoil the rest.
		_ = os.WriteFile(filepath.Join(cgroupRoot, "cgroup.subtree_control"), []byte("+"+name), 0)
	}
	return nil
}
