package server

import (
	"errors"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/portolan-net/portolan/internal/datapath"
	"github.com/portolan-net/portolan/internal/relay"
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

// errAddressLost is how a request ends whose VPN has gone.
var errAddressLost = errors.New("this host has lost the address that the connection was from")

// outboundConn carries requests until the host loses the connection's own address.
type outboundConn struct {
	net.Conn
	lost   atomic.Bool
	forget func()
}

func newOutboundConn(conn net.Conn) *outboundConn {
	c := &outboundConn{Conn: conn}
	c.forget = relay.EndWith(func() {
		c.lost.Store(true)
		_ = conn.SetDeadline(time.Unix(1, 0)) // fails on a closed one only
	}, relay.OwnAddress(conn))
	return c
}

// Read is net.Conn's.
func (c *outboundConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if err != nil && c.lost.Load() {
		err = errAddressLost
	}
	return n, err
}

// Close closes the connection.
func (c *outboundConn) Close() error {
	c.forget()
	return c.Conn.Close()
}
