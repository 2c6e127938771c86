//go:build !linux

package relay

import (
	"net"
	"net/netip"
	"time"

	"github.com/portolan-net/portolan/internal/system"
)

// defaultMax stays below the descriptors that other systems allow by default.
func defaultMax() int { return 4096 }

// udpSocket is a socket of the host, read by a goroutine.
type udpSocket struct {
	conn *net.UDPConn
	port uint16
}

// listenUDP opens a socket on a port of the kernel's choice. Here it does not
// learn which peer refused.
func listenUDP(six bool, _ *system.Outgoing) (*udpSocket, error) {
	network := "udp4"
	if six {
		network = "udp6"
	}
	conn, err := net.ListenUDP(network, nil)
	if err != nil {
		return nil, err
	}
	_ = conn.SetReadBuffer(udpBuffer) // a smaller buffer serves, too
	_ = conn.SetWriteBuffer(udpBuffer)
	return &udpSocket{conn, conn.LocalAddr().(*net.UDPAddr).AddrPort().Port()}, nil
}

// start reads until stop.
func (s *udpSocket) start(u *UDP, a *association) error {
	go func() {
		defer u.running.Done()
		u.read(a)
		_ = s.conn.Close() // a datagram socket has nothing left to say
	}()
	return nil
}

// stop makes the reader stop, which closes the socket.
func (s *udpSocket) stop() {
	_ = s.conn.SetReadDeadline(time.Unix(1, 0)) // fails only when the reader has stopped
}

func (u *UDP) send(a *association, peer netip.AddrPort, payloads [][]byte) error {
	var first error
	for _, payload := range payloads {
		if _, err := a.socket.conn.WriteToUDPAddrPort(payload, peer); first == nil {
			first = err
		}
	}
	return first
}

// read passes on what arrives on a's socket until it is closed. It holds its
// buffer while idle.
func (u *UDP) read(a *association) {
	buf := buffers.Get().(*[bufferSize]byte)
	defer buffers.Put(buf)
	for {
		n, peer, err := a.socket.conn.ReadFromUDPAddrPort(buf[:])
		if err != nil {
			return
		}
		if u.arrived(a, peer.Addr().Unmap()) {
			u.cfg.Reply(a.key.source, netip.AddrPortFrom(peer.Addr().Unmap(), peer.Port()), buf[:n])
		}
	}
}
