//go:build unix

package forward

import (
	"errors"
	"net"
	"os"
	"syscall"
)

// read hands the next datagram to use. It holds a buffer only once the socket is
// readable: thousands of idle sessions would hold 64 KiB each otherwise.
func (u *UDP) read(conn net.Conn, use func([]byte)) error {
	socket, ok := conn.(syscall.Conn)
	if !ok {
		return u.readPlain(conn, use)
	}
	raw, err := socket.SyscallConn()
	if err != nil {
		return err
	}
	var got error
	err = raw.Read(func(fd uintptr) bool {
		buf := u.buffer()
		defer u.buffers.Put(buf)
		n, err := syscall.Read(int(fd), *buf)
		for errors.Is(err, syscall.EINTR) {
			n, err = syscall.Read(int(fd), *buf)
		}
		if errors.Is(err, syscall.EAGAIN) {
			return false
		}
		got = os.NewSyscallError("read", err)
		if err == nil {
			use((*buf)[:n])
		}
		return true
	})
	if err != nil {
		return err
	}
	return got
}
