package lab

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// mountHost gives the calling thread's mount namespace the files of the host.
// Nothing of it propagates to where the namespace came from; within, mounts are
// shared as on a system that systemd started, so that a mount which leaks out
// of a machine is seen.
func mountHost(dir string) error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	for _, file := range []string{"resolv.conf", "hosts"} {
		target, err := filepath.EvalSymlinks(filepath.Join("/etc", file))
		if err != nil {
			return fmt.Errorf("find mount point: %w", err)
		}
		if err := unix.Mount(filepath.Join(dir, file), target, "", unix.MS_BIND, ""); err != nil {
			return fmt.Errorf("bind %s: %w", target, err)
		}
	}
	if err := remountSys(); err != nil {
		return err
	}
	// Last, for what is unmounted above would go from shared copies too.
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_SHARED, ""); err != nil {
		return fmt.Errorf("make mounts shared: %w", err)
	}
	return nil
}

// remountSys puts a sysfs of the current network namespace on /sys and moves
// copies of what was mounted below /sys into it.
func remountSys() error {
	points, err := mountsBelow("/sys")
	if err != nil {
		return err
	}
	trees := make(map[string]int, len(points))
	for _, p := range points {
		fd, err := unix.OpenTree(unix.AT_FDCWD, p, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_RECURSIVE)
		if err != nil {
			return fmt.Errorf("copy mount %s: %w", p, err)
		}
		defer unix.Close(fd)
		trees[p] = fd
	}
	// Hidden mounts would still be listed, each cgroup hierarchy twice.
	if err := unix.Unmount("/sys", unix.MNT_DETACH); err != nil && !errors.Is(err, unix.EINVAL) {
		return fmt.Errorf("unmount the former /sys: %w", err)
	}
	if err := unix.Mount("sysfs", "/sys", "sysfs", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""); err != nil {
		return fmt.Errorf("mount sysfs: %w", err)
	}
	for _, p := range points {
		if err := unix.MoveMount(trees[p], "", unix.AT_FDCWD, p, unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
			return fmt.Errorf("move mount to %s: %w", p, err)
		}
	}
	return nil
}

// mountsBelow lists the outermost mount points under dir.
func mountsBelow(dir string) ([]string, error) {
	f, err := os.Open("/proc/thread-self/mountinfo")
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var all []string
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		// proc_pid_mountinfo(5): the fifth field is the mount point.
		if field := strings.Fields(lines.Text()); len(field) > 4 && strings.HasPrefix(field[4], dir+"/") {
			all = append(all, field[4])
		}
	}
	var outer []string
	for i, p := range all {
		if !inside(p, all[:i]) {
			outer = append(outer, p)
		}
	}
	return outer, lines.Err()
}

// inside reports whether path is one of dirs or below one.
func inside(path string, dirs []string) bool {
	for _, d := range dirs {
		if path == d || strings.HasPrefix(path, d+"/") {
			return true
		}
	}
	return false
}
