package relay

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// These calls never wait, so Go's scheduler is not told of them: being told, its
// monitor would wake thousands of times a second to see whether they wait. Each
// is repeated after a signal; a count is never negative.

// splice moves up to n bytes between a pipe and a socket.
func splice(from, to, n int) (int, error) {
	for {
		moved, _, errno := unix.RawSyscall6(unix.SYS_SPLICE, uintptr(from), 0, uintptr(to), 0, uintptr(n), unix.SPLICE_F_NONBLOCK|unix.SPLICE_F_MOVE)
		if errno != unix.EINTR {
			return outcome(moved, errno)
		}
	}
}

// read reads from a non-blocking descriptor. buf is not empty.
func read(fd int, buf []byte) (int, error) {
	for {
		n, _, errno := unix.RawSyscall(unix.SYS_READ, uintptr(fd), uintptr(unsafe.Pointer(&buf[0])), uintptr(len(buf)))
		if errno != unix.EINTR {
			return outcome(n, errno)
		}
	}
}

// write writes to a non-blocking descriptor. data is not empty.
func write(fd int, data []byte) (int, error) {
	for {
		n, _, errno := unix.RawSyscall(unix.SYS_WRITE, uintptr(fd), uintptr(unsafe.Pointer(&data[0])), uintptr(len(data)))
		if errno != unix.EINTR {
			return outcome(n, errno)
		}
	}
}

func outcome(n uintptr, errno unix.Errno) (int, error) {
	if errno != 0 {
		return 0, errno
	}
	return int(n), nil
}

// retry repeats a system call that a signal interrupted. Its count is never
// negative.
func retry(call func() (int, error)) (int, error) {
	for {
		n, err := call()
		if err != unix.EINTR {
			return max(n, 0), err
		}
	}
}
