package relay

import (
	"context"
	"net"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/portolan-net/portolan/internal/datapath"
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
	ended  chan struct{}
}

// end is one socket. Its flags are what epoll said last, minus what calls found.
type end struct {
	fd       int
	tcp      bool
	readable bool
	writable bool
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
	e.failed = e.failed || flags&unix.EPOLLERR != 0
}

// half is one direction.
type half struct {
	chunk  chunk
	bulk   bool // the last read filled the buffer
	over   bool // a FIN has been passed on
	total  int64
	since  time.Time // since when a write waits; zero when none does
	listed bool      // among the worker's blocked
}

// carryKernel carries bytes between two kernel sockets, as TCP promises, and
// reports false, with nothing done, if it can't.
func carryKernel(ctx context.Context, a, b datapath.Conn) (Stats, bool) {
	f := &flow{ended: make(chan struct{})}
	if f.worker = assign(); f.worker == nil || !f.takeOver(a, b) {
		return Stats{}, false
	}
	f.worker.add(f)
	select {
	case <-f.ended:
	case <-ctx.Done():
		f.worker.abort(f)
		<-f.ended
	}
	return Stats{AToB: f.halves[0].total, BToA: f.halves[1].total}, true
}

// takeOver makes the sockets of a and b the flow's, out of reach of Go's poller.
func (f *flow) takeOver(conns ...datapath.Conn) bool {
	for i, conn := range conns {
		fd, tcp := duplicate(conn)
		if fd < 0 {
			if i == 1 {
				_ = unix.Close(f.ends[0].fd) // conns[0] keeps the connection
			}
			return false
		}
		f.ends[i] = end{fd: fd, tcp: tcp}
	}
	for _, conn := range conns {
		_ = conn.Close() // ours is another descriptor of the same socket
	}
	return true
}

// duplicate returns a descriptor of conn's socket, or -1 if it is no stream
// socket of the kernel's.
func duplicate(conn datapath.Conn) (fd int, tcp bool) {
	var source syscall.Conn
	switch c := conn.(type) {
	case *net.TCPConn:
		source, tcp = c, true
	case *net.UnixConn:
		source = c
	default:
		return -1, false
	}
	raw, err := source.SyscallConn()
	if err != nil {
		return -1, false
	}
	fd = -1
	err = raw.Control(func(from uintptr) {
		if made, err := unix.FcntlInt(from, unix.F_DUPFD_CLOEXEC, 0); err == nil {
			fd = made
		}
		// Urgent data goes on as what nearly all programs take it for: a byte of the stream.
		_ = unix.SetsockoptInt(int(from), unix.SOL_SOCKET, unix.SO_OOBINLINE, 1)
	})
	if err != nil {
		return -1, false
	}
	return fd, tcp
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
		switch err := h.fill(src, f.worker.scratch[:]); {
		case err == unix.EAGAIN:
			src.readable = false
			return false, nil
		case err != nil:
			return false, err
		case h.chunk.n == 0:
			h.over = true
			return false, passEnd(src, dst)
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
		dst.writable = false
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
		f.worker.blocked = append(f.worker.blocked, h)
	}
}

// fill reads src's next chunk: small ones into the worker's buffer, large ones
// into a pipe. No bytes and no error is the end of the stream.
func (h *half) fill(src *end, scratch []byte) error {
	if h.bulk && !src.urgent {
		if ok, err := h.chunk.splice(src.fd); ok {
			h.bulk = h.chunk.n >= scratchSize
			return err
		}
	}
	scratch = stuck.limit(scratch)
	err := h.chunk.receive(src.fd, scratch)
	h.bulk = h.chunk.n == len(scratch)
	if src.tcp && !h.bulk && !src.hungUp && !src.urgent && h.chunk.n > 0 {
		src.readable = false // a short read has emptied the queue; what comes next is an event
	}
	return err
}

// passEnd passes src's FIN on, unless it was in truth an RST whose error the
// opposite direction's write has taken: a FIN alone never leaves a socket in
// state CLOSE while we have not sent ours.
func passEnd(src, dst *end) error {
	if src.tcp && !src.shut {
		const stateClose = 7 // TCP_CLOSE, include/net/tcp_states.h
		info, err := unix.GetsockoptTCPInfo(src.fd, unix.IPPROTO_TCP, unix.TCP_INFO)
		if err != nil || info.State == stateClose {
			return unix.ECONNRESET
		}
	}
	dst.shut = true
	return unix.Shutdown(dst.fd, unix.SHUT_WR)
}

// close ends the flow.
func (f *flow) close() {
	f.gone = true
	f.worker.forget(f)
	for i := range f.ends {
		f.halves[i].chunk.release()
		f.halves[i].since = time.Time{}
		_ = unix.Close(f.ends[i].fd) // takes it from epoll, too
	}
	close(f.ended)
}

// reset ends the flow, with an RST to both sides.
func (f *flow) reset() {
	for i := range f.ends {
		_ = unix.SetsockoptLinger(f.ends[i].fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1})
	}
	f.close()
}
