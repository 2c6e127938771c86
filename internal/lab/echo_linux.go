package lab

import (
	"io"
	"net"
	"testing"
)

// StartTCPEcho echoes each connection faithfully: the client's half-close is
// answered with a half-close once all bytes are back, and a reset ends both
// directions.
func (l *Lab) StartTCPEcho(t testing.TB, node *Node, addr string) *Server {
	t.Helper()
	ln := listen(t, node, addr)
	s := &Server{Addr: addrPort(ln.Addr()), open: map[net.Conn]bool{}}
	s.wg.Go(func() { s.accept(ln) })
	t.Cleanup(func() {
		ln.Close()
		s.hangUp()
		s.wg.Wait()
	})
	return s
}

// accept ends when ln is closed.
func (s *Server) accept(ln net.Listener) {
	for {
		c, err := ln.Accept()
		if err != nil {
			return
		}
		s.saw(c.RemoteAddr())
		if s.track(c) {
			s.wg.Go(func() { s.echo(c) })
		}
	}
}

func (s *Server) echo(c net.Conn) {
	defer s.untrack(c)
	if _, err := io.Copy(c, c); err == nil {
		if tcp, ok := c.(*net.TCPConn); ok {
			_ = tcp.CloseWrite() // the client may have gone by now
		}
	}
}

// track remembers an open connection; after hangUp it closes it instead.
func (s *Server) track(c net.Conn) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.open == nil {
		c.Close()
		return false
	}
	s.open[c] = true
	return true
}

func (s *Server) untrack(c net.Conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.open, c)
	c.Close()
}

// hangUp closes all connections and takes no more.
func (s *Server) hangUp() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := range s.open {
		c.Close()
	}
	s.open = nil
}

// StartUDPEcho sends each datagram back, up to the largest there is.
func (l *Lab) StartUDPEcho(t testing.TB, node *Node, addr string) *Server {
	t.Helper()
	pc := listenPacket(t, node, addr)
	s := &Server{Addr: addrPort(pc.LocalAddr())}
	s.wg.Go(func() { s.echoPackets(pc) })
	t.Cleanup(func() {
		pc.Close()
		s.wg.Wait()
	})
	return s
}

// echoPackets ends when pc is closed.
func (s *Server) echoPackets(pc net.PacketConn) {
	buf := make([]byte, 1<<16)
	for {
		n, from, err := pc.ReadFrom(buf)
		if err != nil {
			return
		}
		s.saw(from)
		_, _ = pc.WriteTo(buf[:n], from) // the client notices what is missing
	}
}
