package lab

import (
	"fmt"
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// namespaces are the descriptors that keep a node's namespaces alive. mnt is
// nil where the node shares the test process's mounts.
type namespaces struct {
	net, mnt *os.File
}

// newNamespaces makes a network namespace and, when mount is given, a mount
// namespace in which mount then runs.
func newNamespaces(mount func() error) (ns namespaces, err error) {
	onSpareThread(func() {
		flags := unix.CLONE_NEWNET
		if mount != nil {
			flags |= unix.CLONE_NEWNS | unix.CLONE_FS
		}
		if err = unix.Unshare(flags); err != nil {
			err = fmt.Errorf("unshare namespaces: %w; the lab needs root", err)
			return
		}
		if ns.net, err = os.Open("/proc/thread-self/ns/net"); err != nil || mount == nil {
			return
		}
		if ns.mnt, err = os.Open("/proc/thread-self/ns/mnt"); err == nil {
			err = mount()
		}
	})
	if err != nil {
		ns.close()
	}
	return ns, err
}

func (ns namespaces) close() {
	for _, f := range []*os.File{ns.net, ns.mnt} {
		if f != nil {
			f.Close()
		}
	}
}

// onSpareThread runs f on a thread that ends with it. The main thread can't
// end, and /proc/PID shows its namespaces, so there f goes to another one.
func onSpareThread(f func()) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread()
		if unix.Gettid() == unix.Getpid() {
			onSpareThread(f)
			runtime.UnlockOSThread()
			return
		}
		f()
	}()
	<-done
}

// inNetNS runs f with the calling goroutine's thread in a network namespace.
func inNetNS(ns *os.File, f func() error) error {
	runtime.LockOSThread()
	home, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		runtime.UnlockOSThread()
		return err
	}
	defer home.Close()
	if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
		runtime.UnlockOSThread()
		return fmt.Errorf("enter network namespace: %w", err)
	}
	defer func() {
		// A thread that can't go home stays locked and ends with its goroutine.
		if unix.Setns(int(home.Fd()), unix.CLONE_NEWNET) == nil {
			runtime.UnlockOSThread()
		}
	}()
	return f()
}

// inMountNS runs f on a spare thread in a mount namespace.
func inMountNS(ns *os.File, f func() ([]byte, error)) (out []byte, err error) {
	onSpareThread(func() {
		if err = unix.Unshare(unix.CLONE_FS); err != nil {
			return
		}
		if err = unix.Setns(int(ns.Fd()), unix.CLONE_NEWNS); err != nil {
			err = fmt.Errorf("enter mount namespace: %w", err)
			return
		}
		out, err = f()
	})
	return out, err
}
