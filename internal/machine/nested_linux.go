package machine

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/portolan-net/portolan/internal/profile"
)

// An ordinary user's machine is a user namespace in the helper's. The kernel then
// keeps its root, and every --privileged container, from two things that root
// of the helper's namespace may do:
//
//   - to change the router: it belongs to the helper's user namespace;
//   - to take off a mount that was there before: what is copied into a mount
//     namespace of another user namespace is locked (mount_namespaces(7)). So the
//     profiles' sockets, by which a container could rule the daemon, are hidden
//     before, in a mount namespace between the host's and the machine's.

// startNested starts PID 1 in the nested user namespace.
func startNested(init *exec.Cmd, p profile.Profile) error {
	if err := nestUserNamespace(init.SysProcAttr); err != nil {
		return err
	}
	// A child begins in the mount namespace of the thread that starts it.
	var err error
	onSpareThread(func() {
		if err = hideSockets(p); err == nil {
			err = init.Start()
		}
	})
	return err
}

// onSpareThread runs f on a thread that ends with it, and with it the mount
// namespace between. The main thread can't end, and /proc/self shows its
// namespaces, so there f goes to another one.
func onSpareThread(f func()) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // never unlocked: then the thread ends with its goroutine
		if unix.Gettid() == unix.Getpid() {
			onSpareThread(f)
			runtime.UnlockOSThread()
			return
		}
		f()
	}()
	<-done
}

// hideSockets gives the thread a mount namespace in which nothing of the
// directory of all profiles' sockets is to be seen but p's shared directory.
func hideSockets(p profile.Profile) error {
	if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
		return fmt.Errorf("unshare mount namespace: %w", err)
	}
	shared, err := unix.OpenTree(unix.AT_FDCWD, p.SharedDir(), unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_RECURSIVE)
	if err != nil {
		return fmt.Errorf("copy mount of %s: %w", p.SharedDir(), err)
	}
	defer unix.Close(shared)
	all := filepath.Dir(p.RunDir)
	const flags = unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC
	if err := unix.Mount("tmpfs", all, "tmpfs", flags, "mode=0700,size=64k"); err != nil {
		return fmt.Errorf("hide %s: %w", all, err)
	}
	if err := os.MkdirAll(p.SharedDir(), 0o700); err != nil {
		return err
	}
	if err := unix.MoveMount(shared, "", unix.AT_FDCWD, p.SharedDir(), unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
		return fmt.Errorf("show %s: %w", p.SharedDir(), err)
	}
	if err := unix.Mount("", all, "", unix.MS_REMOUNT|unix.MS_BIND|unix.MS_RDONLY|flags, ""); err != nil {
		return fmt.Errorf("make %s read-only: %w", all, err)
	}
	return nil
}

// nestUserNamespace puts a child into a user namespace of its own with the same
// ids: root there is not root of the namespace that owns the router.
func nestUserNamespace(attr *syscall.SysProcAttr) error {
	attr.Cloneflags |= unix.CLONE_NEWUSER
	attr.GidMappingsEnableSetgroups = true
	for _, kind := range []struct {
		file string
		maps *[]syscall.SysProcIDMap
	}{{"/proc/self/uid_map", &attr.UidMappings}, {"/proc/self/gid_map", &attr.GidMappings}} {
		text, err := os.ReadFile(kind.file)
		if err != nil {
			return err
		}
		for line := range strings.Lines(string(text)) {
			var inside, outside, count int
			if _, err := fmt.Sscan(line, &inside, &outside, &count); err != nil {
				return fmt.Errorf("read %s: %w", kind.file, err)
			}
			*kind.maps = append(*kind.maps, syscall.SysProcIDMap{ContainerID: inside, HostID: inside, Size: count})
		}
	}
	return nil
}
