package relay

import (
	"io"

	"golang.org/x/sys/unix"
)

// chunk is what a direction has read and not yet written: n bytes in a pipe or,
// when no pipe was to be had or the writer is blocked, in memory.
type chunk struct {
	pipe *pipe
	buf  *[bufferSize]byte // lent, or nil
	data []byte            // what is left, when in memory
	n    int
}

// read fills an empty chunk from the socket fd without blocking. No bytes and
// no error is the end of the stream. Whatever is not filled is given back.
func (c *chunk) read(fd int) error {
	err := c.readPipe(fd)
	if c.pipe == nil {
		err = c.readBuffer(fd)
	}
	if c.n == 0 {
		c.release()
	}
	return err
}

func (c *chunk) readPipe(fd int) error {
	if c.pipe = pipes.get(); c.pipe == nil {
		return nil
	}
	n, err := retry(func() (int, error) {
		moved, err := unix.Splice(fd, nil, c.pipe.w, nil, pipeSize, unix.SPLICE_F_NONBLOCK|unix.SPLICE_F_MOVE)
		return int(moved), err
	})
	c.n = n
	return err
}

func (c *chunk) readBuffer(fd int) error {
	c.buf = buffers.Get().(*[bufferSize]byte)
	n, err := retry(func() (int, error) { return unix.Read(fd, c.buf[:]) })
	c.n = n
	c.data = c.buf[:n]
	return err
}

// write moves what is left to the socket fd, until it is empty (nil) or fd
// would block (EAGAIN). It returns the bytes moved.
func (c *chunk) write(fd int) (int, error) {
	total := 0
	for c.n > 0 {
		n, err := retry(func() (int, error) { return c.writeOnce(fd) })
		if err != nil {
			return total, err
		}
		c.n -= n
		total += n
	}
	c.release()
	return total, nil
}

func (c *chunk) writeOnce(fd int) (int, error) {
	if c.pipe == nil {
		n, err := unix.Write(fd, c.data)
		if err == nil {
			c.data = c.data[n:]
		}
		return max(n, 0), err
	}
	n, err := unix.Splice(c.pipe.r, nil, fd, nil, c.n, unix.SPLICE_F_NONBLOCK|unix.SPLICE_F_MOVE)
	if n == 0 && err == nil {
		return 0, io.ErrShortWrite // the pipe holds less than we counted
	}
	return max(int(n), 0), err
}

// spill moves what is left from the pipe into memory, so that a blocked
// direction keeps no pipe from others.
func (c *chunk) spill() error {
	if c.pipe == nil {
		return nil
	}
	data := make([]byte, c.n)
	for got := 0; got < len(data); {
		n, err := retry(func() (int, error) { return unix.Read(c.pipe.r, data[got:]) })
		if err != nil {
			return err
		}
		if n == 0 {
			return io.ErrUnexpectedEOF
		}
		got += n
	}
	pipes.put(c.pipe)
	c.pipe, c.data = nil, data
	return nil
}

// release gives pipe and buffer back; a pipe with bytes left is closed.
func (c *chunk) release() {
	switch {
	case c.pipe != nil && c.n == 0:
		pipes.put(c.pipe)
	case c.pipe != nil:
		pipes.discard(c.pipe)
	}
	if c.buf != nil {
		buffers.Put(c.buf)
	}
	*c = chunk{}
}

// retry repeats a system call that a signal interrupted. Its count is never
// negative.
func retry(call func() (int, error)) (int, error) {
	for {
		n, err := call()
		if err != unix.EINTR {
			return max(n, 0), err
		}
	}
}
