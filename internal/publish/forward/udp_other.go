//go:build !linux

package forward

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"time"

	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"
)

// shared is not needed: the socket of all clients is UDP.Conn.
type shared struct{}

// dialled is a session's socket to the destination, read by a goroutine.
type dialled struct{ conn net.Conn }

// receive passes on what clients send, until Close.
func (u *UDP) receive(ctx context.Context) error {
	u.mu.Lock()
	u.stop = func() { _ = u.Conn.Close() }
	closed := u.closed
	u.mu.Unlock()
	if closed {
		return nil
	}
	buf, oob := make([]byte, maxDatagram), make([]byte, 256)
	for {
		n, oobn, _, client, err := u.Conn.ReadMsgUDPAddrPort(buf, oob)
		if errors.Is(err, net.ErrClosed) {
			return nil
		}
		if err != nil {
			u.Log.Debug("receive datagram", "listener", u.Conn.LocalAddr(), "error", err)
			time.Sleep(firstPause)
			continue
		}
		key := u.parse(oob[:oobn])
		key.client = unmap(client)
		u.deliver(ctx, key, buf[:n])
	}
}

func (u *UDP) parse(oob []byte) sessionKey {
	dst, index := net.IP(nil), 0
	if u.four() {
		var cm ipv4.ControlMessage
		_ = cm.Parse(oob) // leaves it empty
		dst, index = cm.Dst, cm.IfIndex
	} else {
		var cm ipv6.ControlMessage
		_ = cm.Parse(oob)
		dst, index = cm.Dst, cm.IfIndex
	}
	local, _ := netip.AddrFromSlice(dst)
	return keyOf(local, index)
}

// settle has nothing to wait for.
func (u *UDP) settle() {}

// open gives a dialled socket to its session and sends what it receives to the
// client.
func (u *UDP) open(s *session, conn net.Conn) error {
	s.open(&dialled{conn})
	u.running.Go(func() {
		buf := make([]byte, maxDatagram)
		for {
			n, err := conn.Read(buf)
			switch {
			case err == nil:
				s.touch()
				u.reply(s, buf[:n])
			case !passing(err):
				u.drop(s)
				return
			}
		}
	})
	return nil
}

func (u *UDP) reply(s *session, payload []byte) {
	u.sent.Add(int64(len(payload)))
	_, _, err := u.Conn.WriteMsgUDPAddrPort(payload, s.oob, s.key.client)
	if unroutable(err) {
		_, _, err = u.Conn.WriteMsgUDPAddrPort(payload, nil, s.key.client)
	}
	if err != nil && !errors.Is(err, net.ErrClosed) {
		u.Log.Debug("send reply", "client", s.key.client, "listener", u.Conn.LocalAddr(), "error", err)
	}
}

func (d *dialled) write(payloads [][]byte) {
	for _, payload := range payloads {
		if _, err := d.conn.Write(payload); passing(err) { // that of an earlier one
			_, _ = d.conn.Write(payload)
		}
	}
}

func (d *dialled) close() { _ = d.conn.Close() }
