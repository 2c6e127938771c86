//go:build !linux

package relay

import (
	"net"
	"net/netip"

	"github.com/portolan-net/portolan/internal/system"
)

// defaultMax stays below the descriptors that other systems allow by default.
func defaultMax() int { return 4096 }

// listenUDP opens a socket on a port of the kernel's choice. Here it does not
// learn which peer refused.
func listenUDP(six bool, _ *system.Outgoing) (*net.UDPConn, error) {
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
	return conn, nil
}

func (u *UDP) send(a *association, peer netip.AddrPort, payloads [][]byte) error {
	var first error
	for _, payload := range payloads {
		if _, err := a.conn.WriteToUDPAddrPort(payload, peer); first == nil {
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
		n, peer, err := a.conn.ReadFromUDPAddrPort(buf[:])
		if err != nil {
			return
		}
		if u.arrived(a, peer.Addr().Unmap()) {
			u.cfg.Reply(a.key.source, netip.AddrPortFrom(peer.Addr().Unmap(), peer.Port()), buf[:n])
		}
	}
}
