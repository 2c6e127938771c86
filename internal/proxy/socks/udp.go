package socks

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"time"
)

// Theory of operation: UDP ASSOCIATE
//
// The client sends datagrams with a header to a socket of ours that only it may
// use: they must come from its address, and from the port that came first or
// that it announced. Each destination gets a connected socket towards the
// container; what comes back goes to the client with the container's address in
// the header. All ends with the client's TCP connection; a destination that is
// idle ends before.
//
// Dropped without a word, as datagrams are: fragments (RFC 1928 leaves them to
// us), unknown names, what is not allowed, and what is too large for the client
// with its header.
const (
	maxPeers   = 64 // destinations of one association
	peerIdle   = 90 * time.Second
	udpRoom    = 65536
	headerRoom = 3 + 1 + 16 + 2
)

// association is one client's way for datagrams.
type association struct {
	session
	socket *net.UDPConn

	peers   sync.WaitGroup
	mu      sync.Mutex               // guards what follows
	client  netip.AddrPort           // port 0 until it is known
	sockets map[netip.AddrPort]*peer // by destination
}

// peer is one destination.
type peer struct {
	net.Conn
	seen time.Time // guarded by association.mu
}

// associate serves datagrams until the client closes its connection.
func (s session) associate(ctx context.Context, announced target) error {
	local, remote := addrPort(s.conn.LocalAddr()), addrPort(s.conn.RemoteAddr())
	var lc net.ListenConfig
	packets, err := lc.ListenPacket(ctx, "udp", netip.AddrPortFrom(local.Addr(), 0).String())
	if err != nil {
		return errors.Join(err, s.refuse(replyFailed))
	}
	port := addrPort(packets.LocalAddr()).Port()
	s.cfg.Ports.open.Store(port, true)
	defer s.cfg.Ports.open.Delete(port)
	a := &association{
		session: s, socket: packets.(*net.UDPConn), sockets: map[netip.AddrPort]*peer{},
		client: netip.AddrPortFrom(remote.Addr(), announced.port),
	}
	ctx, cancel := context.WithCancel(ctx)
	var reading sync.WaitGroup
	reading.Go(func() { a.read(ctx) })
	err = s.write(reply(replyOK, addrPort(packets.LocalAddr())))
	if err == nil {
		s.drain()
	}
	cancel()
	_ = a.socket.Close()
	reading.Wait()
	a.closePeers()
	return err
}

// read takes the client's datagrams until the socket is closed.
func (a *association) read(ctx context.Context) {
	buf := make([]byte, udpRoom)
	for {
		n, from, err := a.socket.ReadFromUDPAddrPort(buf)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil || !a.isClient(netip.AddrPortFrom(from.Addr().Unmap(), from.Port())) {
			continue // an error is an ICMP answer to what we sent before
		}
		if err := a.send(ctx, buf[:n]); err != nil {
			a.cfg.Log.Debug("SOCKS datagram dropped", "client", from, "error", err)
		}
	}
}

// isClient reports whether datagrams from there are the client's.
func (a *association) isClient(from netip.AddrPort) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.client.Port() == 0 && from.Addr() == a.client.Addr() {
		a.client = from
	}
	return from == a.client
}

// parseDatagram splits a client's datagram (RFC 1928, section 7).
func parseDatagram(b []byte) (to target, payload []byte, err error) {
	if len(b) < 3 || b[0] != 0 || b[1] != 0 {
		return to, nil, errors.New("no header")
	}
	if b[2] != 0 {
		return to, nil, errors.New("a fragment")
	}
	r := bytes.NewReader(b[3:])
	if to, err = readTarget(r); err != nil {
		return to, nil, fmt.Errorf("read header: %w", err)
	}
	return to, b[len(b)-r.Len():], nil
}

// send passes one datagram on.
func (a *association) send(ctx context.Context, datagram []byte) error {
	to, payload, err := parseDatagram(datagram)
	if err != nil {
		return err
	}
	addrs, err := a.addrs(to)
	if err != nil {
		return err
	}
	p, err := a.peer(ctx, netip.AddrPortFrom(preferred(addrs), to.port))
	if err != nil {
		return err
	}
	_, err = p.Write(payload)
	return err
}

// preferred is the address for a name's datagrams: nobody can tell whether one
// is served, so it is IPv4, which every container has.
func preferred(addrs []netip.Addr) netip.Addr {
	for _, addr := range addrs {
		if addr.Is4() {
			return addr
		}
	}
	return addrs[0]
}

// peer returns the socket for a destination.
func (a *association) peer(ctx context.Context, dst netip.AddrPort) (*peer, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if p := a.sockets[dst]; p != nil {
		p.seen = time.Now()
		return p, nil
	}
	if len(a.sockets) >= maxPeers {
		a.dropOldestLocked()
	}
	conn, err := a.cfg.DialUDP(ctx, dst)
	if err != nil {
		return nil, err
	}
	p := &peer{Conn: conn, seen: time.Now()}
	a.sockets[dst] = p
	a.peers.Go(func() { a.answer(dst, p) })
	return p, nil
}

func (a *association) dropOldestLocked() {
	var oldest *peer
	for _, p := range a.sockets {
		if oldest == nil || p.seen.Before(oldest.seen) {
			oldest = p
		}
	}
	for dst, p := range a.sockets {
		if p == oldest {
			delete(a.sockets, dst)
			_ = p.Close()
		}
	}
}

// answer passes a destination's datagrams to the client until it is idle.
func (a *association) answer(dst netip.AddrPort, p *peer) {
	defer a.forget(dst, p)
	header := appendAddr([]byte{0, 0, 0}, dst)
	buf := make([]byte, headerRoom+udpRoom)
	copy(buf, header)
	for {
		_ = p.SetReadDeadline(time.Now().Add(peerIdle)) // a closed socket ends the next read
		n, err := p.Read(buf[len(header):])
		var timeout net.Error
		switch {
		case errors.Is(err, net.ErrClosed):
			return
		case errors.As(err, &timeout) && timeout.Timeout():
			if a.idle(p) {
				return
			}
			continue
		case err != nil: // an ICMP error; the client finds out as it would
			continue
		}
		a.mu.Lock()
		client := a.client
		p.seen = time.Now()
		a.mu.Unlock()
		_, _ = a.socket.WriteToUDPAddrPort(buf[:len(header)+n], client) // lost, as datagrams may be
	}
}

func (a *association) idle(p *peer) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return time.Since(p.seen) >= peerIdle
}

func (a *association) forget(dst netip.AddrPort, p *peer) {
	_ = p.Close()
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.sockets[dst] == p {
		delete(a.sockets, dst)
	}
}

// closePeers ends all destinations and waits for them.
func (a *association) closePeers() {
	a.mu.Lock()
	for _, p := range a.sockets {
		_ = p.Close()
	}
	a.mu.Unlock()
	a.peers.Wait()
}
