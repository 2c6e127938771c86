package forward

import (
	"container/list"
	"context"
	"errors"
	"net"
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
	socket *dialled   // nil while dialing
	queue  [][]byte   // waits for socket
	closed bool
}

// epoch is from when sessions count: by the monotonic clock, which nobody sets.
var epoch = time.Now()

func (s *session) touch() { s.last.Store(int64(time.Since(epoch))) }

func (s *session) silent() time.Duration { return time.Since(epoch) - time.Duration(s.last.Load()) }

// send writes datagrams to the destination or queues copies of them. What can't
// be written is dropped, as on any link.
func (s *session) send(payloads [][]byte) {
	s.mu.Lock()
	socket := s.socket
	for _, payload := range payloads {
		if socket == nil && !s.closed && len(s.queue) < queueLength {
			s.queue = append(s.queue, slices.Clone(payload))
		}
	}
	s.mu.Unlock()
	if socket != nil {
		socket.write(payloads)
	}
}

// open takes the dialled socket and sends what was queued.
func (s *session) open(socket *dialled) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		socket.close()
		return
	}
	socket.write(s.queue)
	s.socket, s.queue = socket, nil
}

func (s *session) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return
	}
	s.closed = true
	s.cancel()
	if s.socket != nil {
		s.socket.close()
	}
}

// begin dials and opens a session.
func (u *UDP) begin(ctx context.Context, s *session) {
	conn, err := u.dial(ctx, s)
	if err == nil {
		err = u.open(s, conn)
	}
	if err != nil {
		u.Log.Debug("destination can't be dialed", "client", s.key.client, "listener", u.Conn.LocalAddr(), "error", err)
		u.drop(s)
	}
}

// dial opens the session's socket; without descriptors left the oldest session
// gives up its own.
func (u *UDP) dial(ctx context.Context, s *session) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, DialTimeout)
	defer cancel()
	conn, err := u.Dial(ctx, s.key.client)
	if err != nil && exhausted(err) && u.dropOldest(s) {
		u.settle()
		return u.Dial(ctx, s.key.client)
	}
	return conn, err
}

// passing reports whether err is an ICMP error about an earlier datagram: a refusal
// (nobody listens there now; later perhaps), or another that passes too. The kernel
// reports each once.
func passing(err error) bool {
	return errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, syscall.EHOSTUNREACH) ||
		errors.Is(err, syscall.ENETUNREACH) || errors.Is(err, syscall.EMSGSIZE)
}

// unroutable reports that a reply can't leave from the address that the client
// spoke to (broadcast, an address that the host has lost): the kernel chooses one.
func unroutable(err error) bool {
	return errors.Is(err, syscall.EINVAL) || errors.Is(err, syscall.ENETUNREACH)
}
