package connect

import (
	"fmt"
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// onThread runs f on a thread that ends with it, whatever f did to the thread.
func onThread(f func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with its goroutine
		if unix.Gettid() == unix.Getpid() {
			done <- onThread(f) // the main thread can't end
			runtime.UnlockOSThread()
			return
		}
		done <- f()
	}()
	return <-done
}

// inNetwork runs f in the network namespace of a process.
func inNetwork(pid int, f func() error) error {
	ns, err := os.Open(fmt.Sprintf("/proc/%d/ns/net", pid))
	if err != nil {
		return err
	}
	defer ns.Close()
	return onThread(func() error {
		if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("enter network namespace of process %d: %w", pid, err)
		}
		return f()
	})
}

// asUser runs f with the user's effective id, on one thread only: the C library's
// way, which Go follows, would change all of them.
func asUser(uid int, f func() error) error {
	if uid == os.Geteuid() {
		return f()
	}
	const unchanged = ^uintptr(0)
	return onThread(func() error {
		if _, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, unchanged, uintptr(uid), unchanged); errno != 0 {
			return fmt.Errorf("become user %d: %w", uid, errno)
		}
		return f()
	})
}
