package hostservice

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// dialTimeout is how long a TCP target may take; unix sockets answer at once.
const dialTimeout = 10 * time.Second

// Dial connects to e unless g forbids it.
func Dial(ctx context.Context, e Endpoint, g Guard) (net.Conn, error) {
	if e.Network == "tcp" {
		if slices.Contains(enginePorts, e.AddrPort().Port()) {
			return nil, fmt.Errorf("connect to %s: %w", e, ErrForbidden)
		}
		return (&net.Dialer{Timeout: dialTimeout}).DialContext(ctx, "tcp", e.Address)
	}
	file, err := ConnectUnix(e.Address, g)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	return net.FileConn(file)
}

// ConnectUnix connects to the socket at path and returns the connection's
// descriptor. It never waits: a listener whose queue is full is an error. The
// socket that g looks at is the one that is connected: a name may come to mean
// something else in between.
func ConnectUnix(path string, g Guard) (*os.File, error) {
	fd, err := g.open(path)
	if err != nil {
		return nil, fmt.Errorf("connect to %s: %w", path, err)
	}
	defer unix.Close(fd)
	conn, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("connect to %s: %w", path, err)
	}
	file := os.NewFile(uintptr(conn), path)
	if err := unix.Connect(conn, &unix.SockaddrUnix{Name: throughFD(fd)}); err != nil {
		_ = file.Close()
		return nil, fmt.Errorf("connect to %s: %w", path, err)
	}
	if peerRules(conn) {
		_ = file.Close()
		return nil, fmt.Errorf("connect to %s: %w", path, ErrForbidden)
	}
	return file, nil
}

// Check says why no forward may lead to e, nil if one may. A socket that is not
// there yet is judged by its name; a TCP server is asked whether it is an engine.
func (g Guard) Check(ctx context.Context, e Endpoint) error {
	if e.Network == "tcp" {
		if slices.Contains(enginePorts, e.AddrPort().Port()) || isEngine(ctx, e) {
			return fmt.Errorf("connect to %s: %w", e, ErrForbidden)
		}
		return nil
	}
	fd, err := g.open(e.Address)
	switch {
	case err == nil:
		return unix.Close(fd)
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, fs.ErrPermission):
		if !g.namesMissing(e.Address) {
			return nil
		}
		err = ErrForbidden
	}
	return fmt.Errorf("connect to %s: %w", e, err)
}

// open opens the socket at path as a place (O_PATH), if it is one that g allows.
func (g Guard) open(path string) (int, error) {
	fd, err := unix.Open(path, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, err
	}
	if err := g.judge(fd); err != nil {
		_ = unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

func (g Guard) judge(fd int) error {
	var own unix.Stat_t
	if err := unix.Fstat(fd, &own); err != nil {
		return err
	}
	if own.Mode&unix.S_IFMT != unix.S_IFSOCK {
		return errors.New("it is not a socket")
	}
	if real, err := os.Readlink(throughFD(fd)); err == nil && g.names(real) {
		return ErrForbidden
	}
	for _, path := range g.there() {
		var forbidden unix.Stat_t
		if unix.Stat(path, &forbidden) == nil && forbidden.Dev == own.Dev && forbidden.Ino == own.Ino {
			return ErrForbidden // under another name: a hard link or a bind mount
		}
	}
	return nil
}

// there lists g's sockets that exist.
func (g Guard) there() []string {
	var found []string
	for _, pattern := range g.Sockets {
		matches, _ := filepath.Glob(pattern)
		found = append(found, matches...)
	}
	for _, dir := range g.Dirs {
		_ = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
			if err == nil && d.Type() == fs.ModeSocket {
				found = append(found, path)
			}
			return nil // what can't be looked into is passed over
		})
	}
	return found
}

// peerRules reports whether the program that listens rules an engine: by its
// name, as far as this process may see it.
func peerRules(conn int) bool {
	cred, err := unix.GetsockoptUcred(conn, unix.SOL_SOCKET, unix.SO_PEERCRED)
	if err != nil || cred.Pid <= 0 {
		return false
	}
	name, err := os.ReadFile("/proc/" + strconv.Itoa(int(cred.Pid)) + "/comm")
	return err == nil && isRuler(strings.TrimSpace(string(name)))
}

func throughFD(fd int) string { return "/proc/self/fd/" + strconv.Itoa(fd) }
