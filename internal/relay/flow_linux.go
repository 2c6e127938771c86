package relay

import (
	"context"
	"errors"
	"net"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/portolan-net/portolan/internal/datapath"
	"github.com/portolan-net/portolan/internal/socket"
)

// flow is two kernel sockets that a worker connects.
type flow struct {
	worker *worker
	id     int32
	mu     sync.Mutex // held while the worker must not touch what follows
	ends   [2]end
	halves [2]half // halves[i] carries what ends[i] receives
	queued bool
	gone   bool
	stop   func() bool // forgets the context
	done   func(Stats) // nil once called
}

// end is one socket. Its flags are what epoll said last, minus what calls found.
type end struct {
	fd       int
	owner    datapath.Conn // of fd
	tcp      bool
	readable bool
	tag      int32 // of its events
	writable bool
	awaited  bool // its being writable is an event
	hungUp   bool // a FIN has come
	urgent   bool // urgent data came: a short read may leave bytes behind, and splice stops before them
	shut     bool // we have sent a FIN
	failed   bool
}

// note takes an event's flags over.
func (e *end) note(flags uint32) {
	e.readable = e.readable || flags&(unix.EPOLLIN|unix.EPOLLRDHUP|unix.EPOLLHUP) != 0
	e.writable = e.writable || flags&unix.EPOLLOUT != 0
	e.hungUp = e.hungUp || flags&(unix.EPOLLRDHUP|unix.EPOLLHUP) != 0
	e.urgent = e.urgent || flags&unix.EPOLLPRI != 0
	if flags&unix.EPOLLERR == 0 {
		return
	}
	// An RST voids what came before it. A unix socket is read to the end first: its
	// peer has only closed it without reading everything.
	e.failed = e.failed || e.tcp
	e.readable, e.writable, e.hungUp = true, true, true
}

// half is one direction.
type half struct {
	chunk  chunk
	bulk   bool // the last read filled the buffer
	most   int  // how much is spliced at a time; 0 until the first time
	over   bool // a FIN has been passed on
	total  int64
	since  time.Time // since when a write waits; zero when none does
	listed bool      // among the worker's blocked
}

// carryKernel is Start for two kernel sockets. If it reports false, nobody has
// them yet: either is something else, or descriptors are short. Then a and b are
// to be carried in another way.
func carryKernel(ctx context.Context, a, b *datapath.Conn, done func(Stats)) bool {
	if !isKernel(*a) || !isKernel(*b) {
		return false
	}
	f := &flow{worker: assign(), done: done}
	if f.worker == nil || !f.take(a, b) {
		return false
	}
	f.stop = context.AfterFunc(ctx, func() { f.worker.abort(f) })
	f.worker.add(f)
	if ctx.Err() != nil {
		f.worker.abort(f) // the first may have come before the worker knew the flow
	}
	return true
}

// isKernel reports whether conn is a stream socket of the kernel.
func isKernel(conn datapath.Conn) bool {
	switch conn.(type) {
	case *socket.TCP, *net.TCPConn, *net.UnixConn:
		return true
	}
	return false
}

// take makes the sockets the flow's, out of reach of Go's poller. It needs up to
// two descriptors, and fails when none are left.
func (f *flow) take(conns ...*datapath.Conn) bool {
	for i, conn := range conns {
		taken, err := takeSocket(*conn)
		if err != nil {
			if lent, ok := (*conns[0]).(*socket.TCP); ok {
				lent.Unlend()
			}
			return false
		}
		*conn, f.ends[i] = taken.owner, taken
	}
	return true
}

func takeSocket(conn datapath.Conn) (end, error) {
	switch c := conn.(type) {
	case *socket.TCP:
		fd, err := c.Lend()
		if err != nil {
			return end{}, err
		}
		_ = c.Tune() // not closed: it was lent just now
		return end{fd: fd, tcp: true, owner: c}, nil
	case *net.TCPConn:
		detached, err := socket.Detach(c)
		if err != nil {
			return end{}, err
		}
		return takeSocket(detached)
	case *net.UnixConn:
		return takeUnix(c)
	}
	return end{}, errors.ErrUnsupported
}

// takeUnix takes the descriptor without closing c, which stays in Go's poller: a
// second watcher costs such a flow little, and c remains what it was.
func takeUnix(c *net.UnixConn) (end, error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return end{}, err
	}
	taken := end{owner: c}
	err = raw.Control(func(fd uintptr) { taken.fd = int(fd) })
	return taken, err
}

// move does all that can be done now, and reports whether there is more to do
// once others have had their turn.
func (f *flow) move() (more bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.gone {
		return false
	}
	for i := range f.halves {
		if f.ends[0].failed || f.ends[1].failed {
			break
		}
		again, err := f.step(&f.halves[i], &f.ends[i], &f.ends[1-i])
		if err != nil {
			f.ends[i].failed = true
		}
		more = more || again
	}
	switch {
	case f.ends[0].failed || f.ends[1].failed:
		f.reset()
		return false
	case f.halves[0].over && f.halves[1].over:
		f.close()
		return false
	}
	return more
}

// step moves src's bytes to dst until one of them has to be waited for.
func (f *flow) step(h *half, src, dst *end) (more bool, err error) {
	for moved := 0; !h.over; moved++ {
		if h.chunk.n > 0 && !f.drain(h, dst, &err) {
			return false, err
		}
		if !src.readable {
			return false, nil
		}
		if moved == turn {
			return true, nil
		}
		switch err := h.fill(src, dst, f.worker.scratch[:]); {
		case err == unix.EAGAIN:
			src.readable = false
			return false, nil
		case err != nil && (src.tcp || err != unix.ECONNRESET):
			return false, err
		case h.chunk.n == 0:
			h.over = true
			return false, f.passEnd(src, dst)
		}
	}
	return false, nil
}

// drain writes the chunk and reports whether nothing is left of it.
func (f *flow) drain(h *half, dst *end, failure *error) bool {
	if !dst.writable {
		f.wait(h)
		return false
	}
	n, err := h.chunk.write(dst.fd)
	h.total += int64(n)
	switch {
	case err == unix.EAGAIN:
		*failure = f.awaitRoom(dst)
		f.wait(h)
		return false
	case err != nil:
		*failure = err
		return false
	}
	h.since = time.Time{}
	return true
}

// wait notes that h's write waits, with its bytes in a place of their own.
func (f *flow) wait(h *half) {
	h.chunk.keep()
	if h.since.IsZero() {
		h.since = time.Now()
	}
	if !h.listed && h.chunk.pipe != nil {
		h.listed = true
		f.worker.block(h)
	}
}

// fill reads src's next chunk for dst: small ones into the worker's buffer, large
// ones into a pipe. No bytes and no error is the end of the stream.
func (h *half) fill(src, dst *end, scratch []byte) error {
	if h.bulk && !src.urgent {
		if h.most == 0 {
			h.most = dst.wholePackets()
		}
		err := h.chunk.splice(src.fd, h.most)
		h.bulk = h.chunk.n >= scratchSize
		if err != nil || h.chunk.n > 0 {
			return err
		}
	}
	scratch = stuck.limit(scratch)
	err := h.chunk.receive(src.fd, scratch)
	if err == unix.EAGAIN && src.urgent {
		err = h.chunk.receive(src.fd, scratch) // a signal at urgent data looks the same
	}
	h.bulk = h.chunk.n == len(scratch)
	if src.tcp && !h.bulk && !src.hungUp && !src.urgent && h.chunk.n > 0 {
		src.readable = false // a short read has emptied the queue; what comes next is an event
	}
	return err
}

// wholePackets is the largest part of spliceSize that e sends as full packets. What
// is left over would be one more packet after each chunk, and on its way through a
// container's network a small packet costs nearly as much as a full one.
func (e *end) wholePackets() int {
	if !e.tcp {
		return spliceSize
	}
	segment, err := unix.GetsockoptInt(e.fd, unix.IPPROTO_TCP, unix.TCP_MAXSEG)
	if err != nil || segment <= 0 {
		return spliceSize
	}
	packet := max(largestPacket/segment, 1) * segment
	return spliceSize / packet * packet
}

// passEnd passes src's FIN on, unless it was in truth an RST whose error the
// opposite direction's write has taken: a FIN alone never leaves a socket in
// state CLOSE while we have not sent ours. The second FIN is that of close.
func (f *flow) passEnd(src, dst *end) error {
	if src.tcp && !src.shut && isClosed(src.fd) {
		return unix.ECONNRESET
	}
	dst.shut = true
	if src.shut && f.halves[0].over && f.halves[1].over {
		return nil
	}
	return unix.Shutdown(dst.fd, unix.SHUT_WR)
}

// close ends the flow.
func (f *flow) close() {
	f.gone = true
	f.worker.loop.Remove(f.id)
	for i := range f.ends {
		f.halves[i].chunk.release()
		f.halves[i].since = time.Time{}
		_ = f.ends[i].owner.Close() // takes it from epoll, too
	}
}

// tell calls done, once the flow has ended.
func (f *flow) tell() {
	if f.gone && f.done != nil {
		f.stop()
		f.done(Stats{AToB: f.halves[0].total, BToA: f.halves[1].total})
		f.done = nil
	}
}

// reset ends the flow, with an RST to both sides.
func (f *flow) reset() {
	for i := range f.ends {
		_ = unix.SetsockoptLinger(f.ends[i].fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1})
	}
	f.close()
}
