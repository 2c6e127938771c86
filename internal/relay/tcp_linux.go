package relay

import (
	"errors"
	"net"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/portolan-net/portolan/internal/datapath"
)

// blockedAfter is how long a write may wait before the direction counts as
// blocked: it then gives its pipe back and watches the side it reads from. Bulk
// transfers block all the time for far less.
const blockedAfter = 20 * time.Millisecond

// notSent bounds what the kernel queues unsent for a peer that reads slowly
// (tcp(7), TCP_NOTSENT_LOWAT). It is a little more than one full pipe, so that a
// bulk transfer always has something to send.
const notSent = 2 * pipeSize

// limitQueue bounds the memory of a slow peer's send queue.
func limitQueue(conn *net.TCPConn) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return
	}
	_ = raw.Control(func(fd uintptr) {
		_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_NOTSENT_LOWAT, notSent) // an optimisation
	})
}

// transfer carries one direction until src's FIN.
func (f *stream) transfer(src, dst *side) (int64, error) {
	from, ok := src.Conn.(*net.TCPConn)
	to, both := dst.Conn.(*net.TCPConn)
	if !ok || !both {
		return copyBuffered(src.Conn, dst.Conn)
	}
	d := &direction{stream: f, src: from, dst: to}
	defer d.chunk.release()
	return d.run()
}

// direction splices src to dst.
type direction struct {
	stream   *stream
	src, dst *net.TCPConn
	rsrc     syscall.RawConn
	rdst     syscall.RawConn

	chunk chunk
	total int64
	err   error // what the last step of fill or drain met
}

func (d *direction) run() (int64, error) {
	var err error
	if d.rsrc, err = d.src.SyscallConn(); err != nil {
		return 0, err
	}
	if d.rdst, err = d.dst.SyscallConn(); err != nil {
		return 0, err
	}
	fill, drain := d.fill, d.drain // bound once: a bound method is an allocation
	for {
		if err := d.rsrc.Read(fill); err != nil {
			return d.total, err
		}
		if d.err != nil || d.chunk.n == 0 {
			return d.total, d.err
		}
		if err := d.flush(drain); err != nil {
			return d.total, err
		}
	}
}

// fill is one attempt to read; false makes the runtime wait until src is
// readable, with no pipe or buffer held.
func (d *direction) fill(fd uintptr) bool {
	d.err = d.chunk.read(int(fd))
	return d.err != unix.EAGAIN
}

// drain is one attempt to write; false makes the runtime wait until dst is
// writable.
func (d *direction) drain(fd uintptr) bool {
	n, err := d.chunk.write(int(fd))
	d.total += int64(n)
	d.err = err
	return err != unix.EAGAIN
}

// flush writes the whole chunk.
func (d *direction) flush(drain func(uintptr) bool) error {
	if err := d.rdst.Control(func(fd uintptr) { drain(fd) }); err != nil {
		return err
	}
	if d.err != unix.EAGAIN {
		return d.err
	}
	if err := d.dst.SetWriteDeadline(time.Now().Add(blockedAfter)); err != nil {
		return err
	}
	err := d.rdst.Write(drain)
	if clearErr := d.dst.SetWriteDeadline(time.Time{}); err == nil {
		err = clearErr
	}
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return d.flushWatched(drain)
	}
	return errors.Join(err, d.err)
}

// flushWatched writes the whole chunk to a peer that has stopped reading, and
// resets the flow when src is reset meanwhile.
func (d *direction) flushWatched(drain func(uintptr) bool) error {
	if err := d.chunk.spill(); err != nil {
		return err
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		if watch(d.src) {
			d.stream.reset()
		}
	}()
	err := d.rdst.Write(drain)
	_ = d.src.SetReadDeadline(time.Unix(1, 0)) // ends the watch; a closed socket has ended it
	<-ended
	_ = d.src.SetReadDeadline(time.Time{})
	return errors.Join(err, d.err)
}

// watch waits until conn has failed, mostly by an RST, and returns true; or
// until it is closed or its read deadline passes, and returns false. It reads
// nothing. POLLHUP does not count: a FIN each way is a HUP, too.
func watch(conn datapath.Conn) bool {
	tcp, ok := conn.(*net.TCPConn)
	if !ok {
		return false
	}
	raw, err := tcp.SyscallConn()
	if err != nil {
		return false
	}
	failed := false
	_ = raw.Read(func(fd uintptr) bool { // its error says closed or deadline
		failed = hasError(int(fd))
		return failed
	})
	return failed
}

// hasError reports a pending error of the socket without taking it.
func hasError(fd int) bool {
	set := []unix.PollFd{{Fd: int32(fd)}}
	n, err := retry(func() (int, error) { return unix.Poll(set, 0) })
	return err == nil && n == 1 && set[0].Revents&unix.POLLERR != 0
}

// hidesReset reports whether the end of the stream that was read from src is
// in truth an RST whose error the opposite direction's write has taken: a FIN
// alone never leaves a socket in state CLOSE while we have not sent ours. The
// state is read first, because shut is set before our FIN.
func hidesReset(src *side) bool {
	tcp, ok := src.Conn.(*net.TCPConn)
	if !ok {
		return false
	}
	raw, err := tcp.SyscallConn()
	if err != nil {
		return false
	}
	const stateClose = 7 // TCP_CLOSE, include/net/tcp_states.h
	closed := false
	err = raw.Control(func(fd uintptr) {
		info, err := unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO)
		closed = err == nil && info.State == stateClose
	})
	if err != nil {
		return true // the opposite direction is resetting the flow
	}
	return closed && !src.shut.Load()
}
