package forward

import (
	"container/list"
	"context"
	"errors"
	"net"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/portolan-net/portolan/internal/scarce"
)

// session is one client of a UDP socket; see the theory of operation in udp.go.
type session struct {
	key    sessionKey
	oob    []byte             // control message of every reply
	place  *list.Element      // guarded by UDP.mu
	among  scarce.Place       // of UDP.Places
	last   atomic.Int64       // the last datagram either way, in nanoseconds since epoch
	cancel context.CancelFunc // ends its dial

	mu     sync.Mutex // guards the three below
	conn   net.Conn   // nil while dialing
	queue  [][]byte   // waits for conn
	closed bool
}

// epoch is from when sessions count: by the monotonic clock, which nobody sets.
var epoch = time.Now()

func (s *session) touch() { s.last.Store(int64(time.Since(epoch))) }

// send writes one datagram to the destination or queues a copy of it. What can't
// be written is dropped, as on any link.
func (s *session) send(payload []byte) {
	s.mu.Lock()
	conn := s.conn
	if conn == nil && !s.closed && len(s.queue) < queueLength {
		s.queue = append(s.queue, slices.Clone(payload))
	}
	s.mu.Unlock()
	if conn != nil {
		write(conn, payload)
	}
}

// write sends once more after a refusal: the kernel reports an ICMP error of an
// earlier datagram in place of sending this one.
func write(conn net.Conn, payload []byte) {
	if _, err := conn.Write(payload); errors.Is(err, syscall.ECONNREFUSED) {
		_, _ = conn.Write(payload)
	}
}

// open takes the dialed socket and sends what was queued.
func (s *session) open(conn net.Conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		_ = conn.Close()
		return
	}
	for _, payload := range s.queue {
		write(conn, payload)
	}
	s.conn, s.queue = conn, nil
}

func (s *session) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return
	}
	s.closed = true
	s.cancel()
	if s.conn != nil {
		_ = s.conn.Close()
	}
}

// run is the session's goroutine.
func (u *UDP) run(ctx context.Context, s *session) {
	defer u.drop(s)
	conn, err := u.dial(ctx, s)
	if err != nil {
		u.Log.Debug("destination can't be dialed", "client", s.key.client, "listener", u.Conn.LocalAddr(), "error", err)
		return
	}
	s.open(conn)
	idle := u.Idle
	if idle == 0 {
		idle = DefaultIdle
	}
	u.readReplies(s, conn, idle)
}

// dial opens the session's socket; without descriptors left the oldest session
// gives up its own.
func (u *UDP) dial(ctx context.Context, s *session) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, DialTimeout)
	defer cancel()
	conn, err := u.Dial(ctx, s.key.client)
	if err != nil && exhausted(err) && u.dropOldest(s) {
		return u.Dial(ctx, s.key.client)
	}
	return conn, err
}

// readReplies sends what the destination answers to the client, until the
// session is closed or both sides have been silent for idle.
func (u *UDP) readReplies(s *session, conn net.Conn, idle time.Duration) {
	reply := func(payload []byte) {
		s.touch()
		u.reply(s, payload)
	}
	for {
		due := epoch.Add(time.Duration(s.last.Load())).Add(idle)
		if !time.Now().Before(due) {
			return
		}
		if conn.SetReadDeadline(due) != nil {
			return
		}
		var err error
		for err == nil {
			err = u.read(conn, reply)
			if errors.Is(err, syscall.ECONNREFUSED) {
				err = nil // nobody listens there now; later perhaps
			}
		}
		if !errors.Is(err, os.ErrDeadlineExceeded) && !transient(err) {
			return
		}
	}
}

// transient reports whether err is an ICMP error other than a refusal, which
// passes too. Reading on at once can't spin: the kernel reports each error once.
func transient(err error) bool {
	return errors.Is(err, syscall.EHOSTUNREACH) || errors.Is(err, syscall.ENETUNREACH) || errors.Is(err, syscall.EMSGSIZE)
}

// reply sends one datagram to the client from the address that it spoke to, or
// from the kernel's choice where that is no address to send from (broadcast, an
// address that the host has lost).
func (u *UDP) reply(s *session, payload []byte) {
	u.sent.Add(int64(len(payload)))
	_, _, err := u.Conn.WriteMsgUDPAddrPort(payload, s.oob, s.key.client)
	if errors.Is(err, syscall.EINVAL) || errors.Is(err, syscall.ENETUNREACH) {
		_, _, err = u.Conn.WriteMsgUDPAddrPort(payload, nil, s.key.client)
	}
	if err != nil && !errors.Is(err, net.ErrClosed) {
		u.Log.Debug("send reply", "client", s.key.client, "listener", u.Conn.LocalAddr(), "error", err)
	}
}

func (u *UDP) buffer() *[]byte {
	if buf, ok := u.buffers.Get().(*[]byte); ok {
		return buf
	}
	buf := make([]byte, maxDatagram)
	return &buf
}

// readPlain reads into a buffer that is held while it waits.
func (u *UDP) readPlain(conn net.Conn, use func([]byte)) error {
	buf := u.buffer()
	defer u.buffers.Put(buf)
	n, err := conn.Read(*buf)
	if err == nil {
		use((*buf)[:n])
	}
	return err
}
