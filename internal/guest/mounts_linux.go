package guest

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/portolan-net/portolan/internal/profile"
	"github.com/portolan-net/portolan/internal/spec"
)

// AgentDir is the agent's private directory in the machine.
const AgentDir = "/run/portolan-agent"

// ownRun are the entries of /run that belong to the machine, never mirrored.
var ownRun = map[string]bool{
	"portolan": true, "portolan-agent": true, "host-services": true,
	"docker": true, "docker.sock": true, "docker.pid": true,
	"containerd": true, "runc": true, "xtables.lock": true,
}

// ownLib are the entries of /var/lib that belong to the machine.
var ownLib = map[string]bool{"docker": true, "containerd": true}

// setupMounts builds the machine's view of the files. It runs once, in the
// machine's own mount namespace.
func setupMounts(cfg spec.Machine) error {
	// Slave, not private: what the host mounts later (a stick, a share) shows.
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_SLAVE, ""); err != nil {
		return fmt.Errorf("detach mounts from the host: %w", err)
	}
	if err := unix.Mount("proc", "/proc", "proc", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""); err != nil {
		return fmt.Errorf("mount /proc: %w", err)
	}
	if err := mountSys(cfg.Rootless); err != nil {
		return err
	}
	// The shared directory is below /run and must survive its replacement.
	shared, err := os.Open(cfg.Profile.SharedDir())
	if err != nil {
		return err
	}
	defer shared.Close()
	sharedPath := fmt.Sprintf("/proc/self/fd/%d", shared.Fd())
	if err := hide(cfg.Profile.RunDir); err != nil {
		return err
	}
	if err := mirror("/run", ownRun); err != nil {
		return err
	}
	if err := os.MkdirAll(profile.SharedMount, 0o700); err != nil {
		return err
	}
	if err := bind(sharedPath, profile.SharedMount); err != nil {
		return err
	}
	if strings.HasPrefix(cfg.Profile.RunDir, profile.SharedMount+"/") { // has just been covered
		if err := os.MkdirAll(cfg.Profile.RunDir, 0o700); err != nil {
			return err
		}
		if err := hide(cfg.Profile.RunDir); err != nil {
			return err
		}
	}
	if err := showEngine(cfg.Profile); err != nil {
		return err
	}
	for _, dir := range []string{AgentDir, "/run/host-services"} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
	}
	if err := os.Chmod(AgentDir, 0o700); err != nil {
		return err
	}
	return mountEngineDirs(cfg)
}

// mountSys puts a sysfs on /sys that shows the machine's own interfaces, the
// control groups into it, and back what else the host has there (securityfs,
// by which the engine finds AppArmor, say).
//
// An ordinary user's machine can't take the host's /sys off, only cover it, and
// sees the host's control groups, of which it may change none.
func mountSys(rootless bool) error {
	layout, err := readCgroupLayout()
	if err != nil {
		return err
	}
	except := cgroupRoot
	if rootless {
		except = ""
	}
	kept, err := keepMounts("/sys", except)
	if err != nil {
		return err
	}
	defer kept.close()
	// Hidden mounts would still be listed, each hierarchy twice.
	if err := unix.Unmount("/sys", unix.MNT_DETACH); err != nil && !errors.Is(err, unix.EINVAL) {
		return fmt.Errorf("unmount the host's /sys: %w", err)
	}
	if err := unix.Mount("sysfs", "/sys", "sysfs", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""); err != nil {
		return fmt.Errorf("mount /sys: %w", err)
	}
	if err := kept.restore(); err != nil {
		return err
	}
	if rootless {
		return nil
	}
	return layout.mount()
}

// keptMounts are detached copies of mounts, by the place they came from.
type keptMounts map[string]int

// keepMounts copies the outermost mounts below dir, except those at or below
// except, if that is set.
func keepMounts(dir, except string) (keptMounts, error) {
	points, err := mountPoints()
	if err != nil {
		return nil, err
	}
	kept := keptMounts{}
	below := func(path, parent string) bool { return strings.HasPrefix(path, parent+"/") }
	for _, point := range points { // parents come first
		covered := false
		for outer := range kept {
			covered = covered || point == outer || below(point, outer)
		}
		if covered || !below(point, dir) || point == except || (except != "" && below(point, except)) {
			continue
		}
		fd, err := unix.OpenTree(unix.AT_FDCWD, point, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_RECURSIVE)
		if err != nil {
			kept.close()
			return nil, fmt.Errorf("copy mount %s: %w", point, err)
		}
		kept[point] = fd
	}
	return kept, nil
}

// restore puts the copies where they came from; a place that is not there any
// more needs none.
func (k keptMounts) restore() error {
	for point, fd := range k {
		err := unix.MoveMount(fd, "", unix.AT_FDCWD, point, unix.MOVE_MOUNT_F_EMPTY_PATH)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("mount %s again: %w", point, err)
		}
	}
	return nil
}

func (k keptMounts) close() {
	for _, fd := range k {
		_ = unix.Close(fd)
	}
}

// mountPoints lists this process's mounts, field 5 of proc_pid_mountinfo(5).
func mountPoints() ([]string, error) {
	text, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	var points []string
	for line := range strings.Lines(string(text)) {
		if fields := strings.Fields(line); len(fields) > 4 {
			points = append(points, fields[4])
		}
	}
	return points, nil
}

// mountEngineDirs gives the engine's usual directories their place in the
// profile, which also hides those of an engine on the host.
func mountEngineDirs(cfg spec.Machine) error {
	for name := range ownLib {
		if err := os.MkdirAll(filepath.Join(cfg.Profile.EngineDir(), name), 0o710); err != nil {
			return err
		}
	}
	for name := range ownLib {
		if _, err := os.Stat(filepath.Join("/var/lib", name)); errors.Is(err, fs.ErrNotExist) {
			// Without a place to mount on, the parent is mirrored; the host
			// must not get an empty directory from us.
			if err := mirrorLib(); err != nil {
				return err
			}
			break
		}
	}
	for name := range ownLib {
		if err := bind(filepath.Join(cfg.Profile.EngineDir(), name), filepath.Join("/var/lib", name)); err != nil {
			return err
		}
	}
	return nil
}

// mirrorLib mirrors /var/lib and makes the engine's places in it.
func mirrorLib() error {
	if err := mirror("/var/lib", ownLib); err != nil {
		return err
	}
	for name := range ownLib {
		if err := os.Mkdir(filepath.Join("/var/lib", name), 0o710); err != nil {
			return err
		}
	}
	return nil
}

// hide mounts an empty directory over dir.
func hide(dir string) error {
	if err := unix.Mount("tmpfs", dir, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC|unix.MS_RDONLY, "mode=0700,size=4k"); err != nil {
		return fmt.Errorf("hide %s: %w", dir, err)
	}
	return nil
}

// showEngine lets the path that DOCKER_HOST names on the host lead to the same
// engine in the machine: programs mount it into containers as they find it there.
// A link, because the engine makes its socket anew whenever it starts.
func showEngine(p profile.Profile) error {
	const flags = unix.MS_REMOUNT | unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC
	if err := unix.Mount("", p.RunDir, "", flags, ""); err != nil {
		return fmt.Errorf("open %s: %w", p.RunDir, err)
	}
	if err := os.Symlink("/run/docker.sock", p.DockerSocket()); err != nil {
		return err
	}
	if err := unix.Mount("", p.RunDir, "", flags|unix.MS_RDONLY, ""); err != nil {
		return fmt.Errorf("close %s: %w", p.RunDir, err)
	}
	return nil
}

// bind mounts source, with what is mounted below it, over target.
func bind(source, target string) error {
	if err := unix.Mount(source, target, "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
		return fmt.Errorf("mount %s on %s: %w", source, target, err)
	}
	return nil
}
