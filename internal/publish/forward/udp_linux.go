package forward

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/portolan-net/portolan/internal/datapath"
	"github.com/portolan-net/portolan/internal/mmsg"
	"github.com/portolan-net/portolan/internal/poll"
	"github.com/portolan-net/portolan/internal/socket"
)

// shared is the socket of all clients. Its loop's thread alone uses the descriptor.
type shared struct {
	*UDP
	deliver func(key sessionKey, payloads [][]byte)
	ended   chan struct{}
	room    [][]byte // for what is passed on
	loop    *poll.Loop
	id      int32
	fd      int // -1 once ended
	msg     mmsg.Socket
}

// dialled is a session's socket to the destination, in the loop of the shared one.
// Its thread alone uses the descriptor.
type dialled struct {
	*shared
	session *session
	release func()
	id      int32
	fd      int // -1 once closed
	msg     mmsg.Socket
}

// receive passes on what clients send, until Close. It takes the socket out of Go's
// poller, which would wake for each datagram that has left, too.
func (u *UDP) receive(ctx context.Context) error {
	for pause := firstPause; ; pause = min(2*pause, lastPause) {
		s, err := u.share(func(key sessionKey, payloads [][]byte) { u.deliver(ctx, key, payloads...) })
		switch {
		case err == nil:
			<-s.ended
			return nil
		case errors.Is(err, net.ErrClosed):
			return nil
		case !exhausted(err):
			return fmt.Errorf("serve %s: %w", u.Conn.LocalAddr(), err)
		}
		u.Log.Debug("receive datagrams", "listener", u.Conn.LocalAddr(), "error", err)
		time.Sleep(pause)
	}
}

func (u *UDP) share(deliver func(sessionKey, [][]byte)) (*shared, error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.closed {
		return nil, net.ErrClosed
	}
	s := &shared{UDP: u, deliver: deliver, ended: make(chan struct{}), loop: poll.Next(), msg: mmsg.Socket{Offload: u.Offload}}
	if s.loop == nil {
		return nil, unix.EMFILE
	}
	fd, err := socket.Duplicate(u.Conn)
	if err != nil {
		return nil, err
	}
	s.fd = fd
	s.loop.Call(func() {
		s.id = s.loop.Add(s)
		if err = s.watch(); err != nil {
			s.end()
		}
	})
	if err != nil {
		return nil, err
	}
	_ = u.Conn.Close() // the socket stays
	u.shared = s
	u.stop = func() { s.loop.Call(s.end) }
	return s, nil
}

func (s *shared) watch() error { return s.loop.Watch(s.id, 0, s.fd, unix.EPOLLIN) }

// end frees the port.
func (s *shared) end() {
	if s.fd < 0 {
		return
	}
	s.loop.Unwatch(s.fd) // somebody else may have the socket, too
	s.loop.Remove(s.id)
	_ = unix.Close(s.fd)
	s.fd = -1
	close(s.ended)
}

// Ready implements poll.Watcher. One batch, then others have their turn.
func (s *shared) Ready(int32, uint32) {
	b := mmsg.Borrow()
	defer mmsg.Return(b)
	n, err := s.msg.Receive(uintptr(s.fd), b)
	switch {
	case err == nil:
		s.pass(b, n)
	case !errors.Is(err, unix.EAGAIN):
		// An unconnected socket reports nothing that ends it (ICMP errors of clients
		// that went away are not even queued).
		s.Log.Debug("receive datagram", "listener", s.Conn.LocalAddr(), "error", err)
		s.pause()
	}
}

// pause lets others give back what is short.
func (s *shared) pause() {
	s.loop.Unwatch(s.fd)
	s.loop.After(firstPause, func() {
		if s.fd >= 0 && s.watch() != nil {
			s.pause()
		}
	})
}

// pass delivers n datagrams, those of one session that follow each other together.
func (s *shared) pass(b *mmsg.Batch, n int) {
	var key sessionKey
	payloads := s.room[:0]
	for i := range n {
		next := localKey(b.Control(i))
		next.client = b.From(i)
		if next != key && len(payloads) > 0 {
			s.deliver(key, payloads)
			payloads = payloads[:0]
		}
		key, payloads = next, append(payloads, b.Payload(i))
	}
	s.deliver(key, payloads)
	s.room = payloads
}

// localKey reads where a datagram was sent to from the control message of IP_PKTINFO
// (ip(7)) or IPV6_PKTINFO (ipv6(7)).
func localKey(level, typ int32, data []byte) sessionKey {
	switch {
	case level == unix.SOL_IP && typ == unix.IP_PKTINFO && len(data) >= unix.SizeofInet4Pktinfo: // ipi_ifindex, ipi_spec_dst, ipi_addr
		return keyOf(netip.AddrFrom4([4]byte(data[8:12])), int(binary.NativeEndian.Uint32(data)))
	case level == unix.SOL_IPV6 && typ == unix.IPV6_PKTINFO && len(data) >= unix.SizeofInet6Pktinfo: // ipi6_addr, ipi6_ifindex
		return keyOf(netip.AddrFrom16([16]byte(data)), int(binary.NativeEndian.Uint32(data[16:])))
	}
	return sessionKey{}
}

// reply sends datagrams to the client from the address that it spoke to.
func (s *shared) reply(of *session, payloads [][]byte) {
	if s.fd < 0 {
		return
	}
	s.sent.Add(total(payloads))
	for oob := of.oob; len(payloads) > 0; {
		n, err := s.msg.Send(uintptr(s.fd), of.key.client, oob, payloads)
		payloads = payloads[n:]
		switch {
		case err == nil:
			return
		case unroutable(err) && oob != nil:
			oob = nil
			continue
		case errors.Is(err, unix.EAGAIN):
			return // no room for the rest either
		}
		s.Log.Debug("send reply", "client", of.key.client, "listener", s.Conn.LocalAddr(), "error", err)
		payloads = payloads[1:]
	}
}

// settle returns when the sockets of sessions that were dropped are closed.
func (u *UDP) settle() {
	u.mu.Lock()
	s := u.shared
	u.mu.Unlock()
	s.loop.Call(func() {})
}

// open gives a dialled socket to its session, and to the loop.
func (u *UDP) open(of *session, conn net.Conn) error {
	fd, release, err := detach(conn)
	if err != nil {
		_ = conn.Close()
		return err
	}
	u.mu.Lock()
	d := &dialled{shared: u.shared, session: of, release: release, fd: fd, msg: mmsg.Socket{Offload: u.Offload}}
	u.mu.Unlock()
	u.running.Add(1)
	d.loop.Call(func() {
		d.id = d.loop.Add(d)
		if err = d.loop.Watch(d.id, 0, d.fd, unix.EPOLLIN); err != nil {
			d.end()
			return
		}
		of.open(d)
	})
	return err
}

// detach takes a connection out of Go's poller.
func detach(conn net.Conn) (fd int, release func(), err error) {
	switch conn := conn.(type) {
	case datapath.Detacher:
		return conn.Detach()
	case syscall.Conn:
		if fd, err = socket.Duplicate(conn); err != nil {
			return -1, nil, err
		}
		_ = conn.(net.Conn).Close() // the socket stays
		return fd, func() {}, nil
	}
	return -1, nil, fmt.Errorf("%T has no descriptor", conn)
}

// close makes the loop close the socket.
func (d *dialled) close() { d.loop.Do(d.end) }

func (d *dialled) end() {
	d.loop.Unwatch(d.fd)
	d.loop.Remove(d.id)
	_ = unix.Close(d.fd)
	d.fd = -1
	d.release()
	d.running.Done()
}

// write sends datagrams to the destination. It sends once more after a refusal: the
// kernel reports an ICMP error of an earlier datagram in place of sending this one.
func (d *dialled) write(payloads [][]byte) {
	if d.fd < 0 {
		return
	}
	for again := false; len(payloads) > 0; {
		n, err := d.msg.Send(uintptr(d.fd), netip.AddrPort{}, nil, payloads)
		payloads, again = payloads[n:], again && n == 0
		switch {
		case err == nil, errors.Is(err, unix.EAGAIN), errors.Is(err, unix.ENOBUFS):
			return // no room for the rest either
		case errors.Is(err, unix.ECONNREFUSED) && !again:
			again = true
		default:
			payloads, again = payloads[1:], false
		}
	}
}

// turn is how many batches a session reads before others have their turn.
const turn = 4

// Ready implements poll.Watcher.
func (d *dialled) Ready(int32, uint32) {
	b := mmsg.Borrow()
	defer mmsg.Return(b)
	for range turn {
		n, err := d.msg.Receive(uintptr(d.fd), b)
		switch {
		case err == nil:
		case errors.Is(err, unix.EAGAIN):
			return
		case passing(err):
			continue
		default:
			d.drop(d.session)
			return
		}
		payloads := d.room[:0]
		for i := range n {
			payloads = append(payloads, b.Payload(i))
		}
		d.session.touch()
		d.reply(d.session, payloads)
		d.room = payloads
		if !b.Full() {
			return
		}
	}
}
