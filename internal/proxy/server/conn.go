package server

import (
	"net"
	"sync"

	"github.com/portolan-net/portolan/internal/datapath"
)

// notedConn tells when its user has closed it, or handed it on.
type notedConn struct {
	datapath.Conn
	once   sync.Once
	closed chan struct{}
}

// Close closes the connection.
func (c *notedConn) Close() error {
	err := c.Conn.Close()
	c.note()
	return err
}

// note ends the listener's wait.
func (c *notedConn) note() { c.once.Do(func() { close(c.closed) }) }

// resumedConn is a connection of which something has been read already.
type resumedConn struct {
	datapath.Conn
	first []byte
}

// Read returns what was read before, and then what comes.
func (c *resumedConn) Read(p []byte) (int, error) {
	if len(c.first) > 0 {
		n := copy(p, c.first)
		c.first = c.first[n:]
		return n, nil
	}
	return c.Conn.Read(p)
}

// oneListener is a net.Listener that has one connection and ends with it.
type oneListener struct {
	conn *notedConn
	used bool
}

// Accept returns the connection, and the second time the end.
func (l *oneListener) Accept() (net.Conn, error) {
	if !l.used {
		l.used = true
		return l.conn, nil
	}
	<-l.conn.closed
	return nil, net.ErrClosed
}

// Close has nothing to close: the connection is the server's.
func (l *oneListener) Close() error { return nil }

// Addr is our end of the connection.
func (l *oneListener) Addr() net.Addr { return l.conn.LocalAddr() }
