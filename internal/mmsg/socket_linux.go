package mmsg

import (
	"math"
	"net/netip"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// Socket is what is kept of one UDP socket for its datagrams. The zero value serves.
// Send may be called by several goroutines, Receive by one at a time.
type Socket struct {
	Offload *Offload // nil never joins; not to be changed once the socket is in use

	merges  bool // the socket has UDP_GRO, or can't have it
	refused atomic.Pointer[refusal]
}

// refusal is a size of which the kernel took no joined datagrams.
type refusal struct {
	size int
	at   time.Time
}

// refusalHolds is how long a refusal counts: routes and their MTUs change.
const refusalHolds = 10 * time.Second

// Receive takes the datagrams that are there, at least one, without waiting, and
// returns how many. The error is an Errno: EAGAIN when there is none, or a pending
// error of the socket.
func (s *Socket) Receive(fd uintptr, b *Batch) (int, error) {
	if !s.merges && s.Offload.On() {
		// It stays: without it, what was merged before would come in one piece.
		s.merges = true
		_ = unix.SetsockoptInt(int(fd), unix.SOL_UDP, unix.UDP_GRO, 1) // without it they come one by one
	}
	return b.receive(fd)
}

// Send sends payloads, in order, to one address (the zero value: where the socket is
// connected to) with the same control messages (nil for none), without waiting. It
// returns how many were sent; the error, an Errno, is about the payload after those,
// and nil when all were sent.
func (s *Socket) Send(fd uintptr, to netip.AddrPort, control []byte, payloads [][]byte) (int, error) {
	out := spare.Get().(*outgoing)
	defer spare.Put(out)
	namelen := out.address(to)
	below := s.joins()
	for total := 0; total < len(payloads); {
		messages := out.fill(namelen, control, payloads[total:], below)
		n, errno := out.send(fd, messages)
		switch {
		case errno == 0:
			total += out.datagrams(n)
		case errno == unix.EINTR:
		case out.counts[0] > 1 && refuses(errno):
			below = len(payloads[total])
			s.refused.Store(&refusal{size: below, at: time.Now()})
		default:
			return total, errno
		}
	}
	return len(payloads), nil
}

// joins is the size below which datagrams may be joined.
func (s *Socket) joins() int {
	if !s.Offload.On() {
		return 0
	}
	if r := s.refused.Load(); r != nil && time.Since(r.at) < refusalHolds {
		return r.size
	}
	return math.MaxInt
}

// refuses reports that the kernel can't send a joined message: a datagram is larger
// than the path's MTU, or the device counts no checksums.
func refuses(errno unix.Errno) bool {
	return errno == unix.EINVAL || errno == unix.EIO || errno == unix.EMSGSIZE
}
