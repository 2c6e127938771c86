package router

import (
	"errors"
	"fmt"
	"os"
	"syscall"

	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// Estate is what a helper leaves in the daemon when it dies: all that another
// one needs to go on. The router's namespace lives as long as its sockets do,
// but only a descriptor of it lets a process in.
type Estate struct {
	Network *os.File   // the router's network namespace
	User    *os.File   // the user namespace that owns it
	Router  []*os.File // slow0 and the listeners, in listenerKinds' order
}

// Estate returns duplicates, for the caller to close.
func (d *Datapath) Estate() (*Estate, error) {
	var files []*os.File
	for _, conn := range []syscall.Conn{d.namespaces[0], d.namespaces[1], d.tun, d.tcp[0], d.tcp[1], d.udp[0], d.udp[1]} {
		file, err := duplicate(conn)
		if err != nil {
			(&Estate{Router: files}).Close()
			return nil, fmt.Errorf("duplicate descriptor of the router: %w", err)
		}
		files = append(files, file)
	}
	return &Estate{Network: files[0], User: files[1], Router: files[2:]}, nil
}

// Close releases the duplicates.
func (e *Estate) Close() {
	for _, file := range append([]*os.File{e.Network, e.User}, e.Router...) {
		if file != nil {
			_ = file.Close()
		}
	}
}

// duplicate leaves the original as it is: non-blocking, and in Go's poller.
func duplicate(conn syscall.Conn) (*os.File, error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return nil, err
	}
	fd, dupErr := -1, error(nil)
	err = raw.Control(func(original uintptr) {
		fd, dupErr = unix.FcntlInt(original, unix.F_DUPFD_CLOEXEC, 0)
	})
	if err := errors.Join(err, dupErr); err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), "router"), nil
}

// Resume makes a router of the descriptors in an Estate's Router, from first on,
// that this process has inherited. Every thread of it must be in the router's
// namespace, as a daemon keeps it running; process machinePID is in the machine's.
func Resume(first, machinePID int) (n *Namespace, err error) {
	n = &Namespace{tun: first, machine: netns.None()}
	if n.link, err = presentLink(); err != nil {
		return nil, err
	}
	if n.machine, err = openMachine(machinePID); err != nil {
		return nil, err
	}
	for i := range listenerKinds {
		n.listeners = append(n.listeners, first+1+i)
	}
	for _, fd := range append([]int{n.tun}, n.listeners...) {
		if _, err := unix.FcntlInt(uintptr(fd), unix.F_SETFD, unix.FD_CLOEXEC); err != nil {
			return nil, fmt.Errorf("inherit descriptor %d of the router: %w", fd, err)
		}
	}
	return n, removeHostEnd() // its holder finds the helper gone, and comes again
}

// namespaceFDs opens the namespaces of this process that another helper would
// need; the files are given up when the answer is sent.
func namespaceFDs() ([]int, error) {
	var fds []int
	for _, name := range []string{"net", "user"} {
		fd, err := unix.Open("/proc/self/ns/"+name, unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			closeAll(fds)
			return nil, fmt.Errorf("open %s namespace: %w", name, err)
		}
		fds = append(fds, fd)
	}
	return fds, nil
}
