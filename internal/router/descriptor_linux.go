package router

import (
	"errors"
	"os"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// descriptor is a non-blocking descriptor that a loop watches. It stays out of
// Go's poller, which would wake for every packet as well.
type descriptor struct {
	mu sync.RWMutex // held while fd is used
	fd int          // -1 once closed
}

// Control implements syscall.RawConn.
func (d *descriptor) Control(f func(fd uintptr)) error {
	d.mu.RLock()
	defer d.mu.RUnlock()
	if d.fd < 0 {
		return os.ErrClosed
	}
	f(uintptr(d.fd))
	return nil
}

// SyscallConn implements syscall.Conn.
func (d *descriptor) SyscallConn() (syscall.RawConn, error) { return d, nil }

// Read implements syscall.RawConn: nobody waits here.
func (*descriptor) Read(func(uintptr) bool) error { return errors.ErrUnsupported }

// Write implements syscall.RawConn: nobody waits here.
func (*descriptor) Write(func(uintptr) bool) error { return errors.ErrUnsupported }

// receive reads one packet.
func (d *descriptor) receive(b []byte) (int, error) {
	d.mu.RLock()
	defer d.mu.RUnlock()
	return unix.Read(d.fd, b) // EBADF once closed
}

// send writes one packet.
func (d *descriptor) send(b []byte) error {
	d.mu.RLock()
	defer d.mu.RUnlock()
	_, err := unix.Write(d.fd, b)
	return err
}

// Close implements io.Closer.
func (d *descriptor) Close() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.fd < 0 {
		return os.ErrClosed
	}
	fd := d.fd
	d.fd = -1
	return unix.Close(fd)
}
