package socket

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// TCP is a connection. Its methods may be called from several goroutines.
type TCP struct {
	local, remote netip.AddrPort
	accepted      bool // from a listener that has had TuneListener

	mu   sync.Mutex // guards the rest
	fd   int        // non-blocking; -1 once closed or ordinary
	conn *net.TCPConn
	lent bool // somebody polls fd
}

// Own makes fd, a connected non-blocking TCP socket, the TCP's. Local and remote
// are its addresses, IPv4 never dressed as IPv6.
func Own(fd int, local, remote netip.AddrPort) *TCP {
	return &TCP{fd: fd, local: local, remote: remote}
}

// Detach takes a connection of package net out of Go's poller and closes conn:
// the TCP has a descriptor of its own. After an error conn is as it was.
func Detach(conn *net.TCPConn) (*TCP, error) {
	fd, err := Duplicate(conn)
	if err != nil {
		return nil, err
	}
	_ = conn.Close() // the connection goes on
	return Own(fd, addrPort(conn.LocalAddr()), addrPort(conn.RemoteAddr())), nil
}

// Duplicate returns another descriptor of conn's socket.
func Duplicate(conn syscall.Conn) (fd int, err error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return -1, err
	}
	controlErr := raw.Control(func(from uintptr) {
		fd, err = unix.FcntlInt(from, unix.F_DUPFD_CLOEXEC, 0)
	})
	if err := errors.Join(controlErr, err); err != nil {
		return -1, err
	}
	return fd, nil
}

// Lend is the descriptor, for a poller of the caller's own, until Close or
// Unlend. An ordinary connection is taken back from package net, which needs one
// more descriptor for a moment. What would make the connection ordinary fails
// with net.ErrClosed meanwhile.
func (s *TCP) Lend() (fd int, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.conn != nil {
		if fd, err = Duplicate(s.conn); err != nil {
			return -1, err
		}
		_ = s.conn.Close() // the connection goes on
		s.fd, s.conn = fd, nil
	}
	if s.fd < 0 {
		return -1, net.ErrClosed
	}
	s.lent = true
	return s.fd, nil
}

// Unlend undoes Lend.
func (s *TCP) Unlend() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lent = false
}

// Ordinary makes the connection one of package net, until Lend. It needs one more
// descriptor for a moment; without, the connection is reset.
func (s *TCP) Ordinary() (*net.TCPConn, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.conn != nil {
		return s.conn, nil
	}
	if s.fd < 0 || s.lent {
		return nil, net.ErrClosed
	}
	fd := s.fd
	file := os.NewFile(uintptr(fd), "tcp")
	s.fd = -1
	defer file.Close()
	conn, err := net.FileConn(file)
	if err != nil {
		_ = unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1})
		return nil, err
	}
	s.conn = conn.(*net.TCPConn)
	return s.conn, nil
}

// Control calls f with the descriptor, which stays open meanwhile.
func (s *TCP) Control(f func(fd int)) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.conn != nil:
		raw, err := s.conn.SyscallConn()
		if err != nil {
			return err
		}
		return raw.Control(func(fd uintptr) { f(int(fd)) })
	case s.fd < 0:
		return net.ErrClosed
	}
	f(s.fd)
	return nil
}

// Close implements net.Conn.
func (s *TCP) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.conn != nil:
		return s.conn.Close()
	case s.fd < 0:
		return net.ErrClosed
	}
	fd := s.fd
	s.fd = -1
	return unix.Close(fd)
}

// SetLinger is net.TCPConn's.
func (s *TCP) SetLinger(sec int) error {
	return s.set(func(fd int) error {
		return unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: int32(min(sec+1, 1)), Linger: int32(max(sec, 0))})
	})
}

// CloseWrite is net.TCPConn's.
func (s *TCP) CloseWrite() error {
	return s.set(func(fd int) error { return unix.Shutdown(fd, unix.SHUT_WR) })
}

func (s *TCP) set(f func(fd int) error) error {
	var result error
	err := s.Control(func(fd int) { result = f(fd) })
	return errors.Join(err, result)
}

// LocalAddr implements net.Conn.
func (s *TCP) LocalAddr() net.Addr { return net.TCPAddrFromAddrPort(s.local) }

// RemoteAddr implements net.Conn.
func (s *TCP) RemoteAddr() net.Addr { return net.TCPAddrFromAddrPort(s.remote) }

// Local is LocalAddr as a value.
func (s *TCP) Local() netip.AddrPort { return s.local }

// Remote is RemoteAddr as a value.
func (s *TCP) Remote() netip.AddrPort { return s.remote }

// Read implements net.Conn. The connection is ordinary then.
func (s *TCP) Read(b []byte) (int, error) {
	conn, err := s.Ordinary()
	if err != nil {
		return 0, err
	}
	return conn.Read(b)
}

// Write implements net.Conn. The connection is ordinary then.
func (s *TCP) Write(b []byte) (int, error) {
	conn, err := s.Ordinary()
	if err != nil {
		return 0, err
	}
	return conn.Write(b)
}

// SetDeadline implements net.Conn. The connection is ordinary then.
func (s *TCP) SetDeadline(t time.Time) error {
	conn, err := s.Ordinary()
	if err != nil {
		return err
	}
	return conn.SetDeadline(t)
}

// SetReadDeadline implements net.Conn. The connection is ordinary then.
func (s *TCP) SetReadDeadline(t time.Time) error {
	conn, err := s.Ordinary()
	if err != nil {
		return err
	}
	return conn.SetReadDeadline(t)
}

// SetWriteDeadline implements net.Conn. The connection is ordinary then.
func (s *TCP) SetWriteDeadline(t time.Time) error {
	conn, err := s.Ordinary()
	if err != nil {
		return err
	}
	return conn.SetWriteDeadline(t)
}

func addrPort(addr net.Addr) netip.AddrPort {
	tcp, ok := addr.(*net.TCPAddr)
	if !ok {
		return netip.AddrPort{}
	}
	return unmap(tcp.AddrPort())
}

func unmap(a netip.AddrPort) netip.AddrPort { return netip.AddrPortFrom(a.Addr().Unmap(), a.Port()) }
