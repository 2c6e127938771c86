package hostservice

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"

	"golang.org/x/sys/unix"
)

// Sockets makes the files of listeners for another process, and removes what it
// made and nothing else. It is for one goroutine at a time.
type Sockets struct {
	Guard Guard // of places that are others'

	made map[string]fs.FileInfo
}

// Listen makes a socket at path, for its user alone. One that was left there by a
// process that is no more is replaced; anything else that is there is an error.
func (s *Sockets) Listen(path string) (*os.File, error) {
	if s.Guard.namesMissing(path) {
		return nil, fmt.Errorf("listen on %s: that is a place of an engine's or of Portolan's", path)
	}
	file, err := listenAt(path)
	if errors.Is(err, unix.EADDRINUSE) && abandoned(path) {
		if err = RemoveAbandoned(path); err == nil {
			file, err = listenAt(path)
		}
	}
	if errors.Is(err, unix.EADDRINUSE) {
		err = errors.New("something is there already; choose another path, or remove it")
	}
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", path, err)
	}
	if info, err := os.Lstat(path); err == nil { // else it has gone again
		if s.made == nil {
			s.made = map[string]fs.FileInfo{}
		}
		s.made[path] = info
	}
	return file, nil
}

// Remove removes what Listen made at path, if it still is what is there.
func (s *Sockets) Remove(path string) {
	if now, err := os.Lstat(path); err == nil && s.made[path] != nil && os.SameFile(now, s.made[path]) {
		_ = os.Remove(path) // its directory may be closed to this user by now
	}
	delete(s.made, path)
}

// Close removes all.
func (s *Sockets) Close() {
	for path := range s.made {
		s.Remove(path)
	}
}

func listenAt(path string) (*os.File, error) {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	// The mode of a socket before bind is the one that its file is made with.
	err = unix.Fchmod(fd, 0o600)
	if err == nil {
		err = unix.Bind(fd, &unix.SockaddrUnix{Name: path})
	}
	if err == nil {
		err = unix.Listen(fd, unix.SOMAXCONN)
	}
	if err != nil {
		_ = unix.Close(fd)
		return nil, err
	}
	return os.NewFile(uintptr(fd), path), nil
}

// RemoveAbandoned removes a socket that was left by a process that is no more.
func RemoveAbandoned(path string) error {
	if !abandoned(path) {
		return nil
	}
	return os.Remove(path)
}

// abandoned reports whether path is a socket on which nobody listens.
func abandoned(path string) bool {
	info, err := os.Lstat(path)
	if err != nil || info.Mode().Type() != fs.ModeSocket {
		return false
	}
	conn, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: path, Net: "unix"})
	if err == nil {
		_ = conn.Close()
	}
	return errors.Is(err, unix.ECONNREFUSED)
}
