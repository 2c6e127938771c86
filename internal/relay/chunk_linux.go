package relay

import "io"

// scratchSize is the most that is copied at a time. A read that fills it is
// taken for bulk, and the next one spliced.
const scratchSize = 32 << 10

// chunk is what a direction has read and not yet written: n bytes in a pipe or
// in memory.
type chunk struct {
	pipe *pipe
	data []byte // what is left, when in memory
	lent bool   // data is the worker's buffer
	held int    // bytes that stuck counts
	n    int
}

// splice fills an empty chunk with up to most bytes from the socket fd, by way of
// a pipe. No bytes and no error: no pipe was to be had, or nothing before the
// stream's end or its urgent data, which receive tells apart.
func (c *chunk) splice(fd, most int) error {
	if c.pipe = pipes.get(); c.pipe == nil {
		return nil
	}
	n, err := splice(fd, c.pipe.w, most)
	c.n = n
	if n == 0 {
		c.release()
	}
	return err
}

// receive fills an empty chunk from the socket fd, into buf.
func (c *chunk) receive(fd int, buf []byte) error {
	n, err := read(fd, buf)
	if n > 0 {
		c.data, c.lent, c.n = buf[:n], true, n
	}
	return err
}

// write moves what is left to the socket fd, until it is empty (nil) or fd
// would block (EAGAIN). It returns the bytes moved.
func (c *chunk) write(fd int) (int, error) {
	total := 0
	for c.n > 0 {
		n, err := c.writeOnce(fd)
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
		n, err := write(fd, c.data)
		c.data = c.data[n:]
		return n, err
	}
	n, err := splice(c.pipe.r, fd, c.n)
	if n == 0 && err == nil {
		return 0, io.ErrShortWrite // the pipe holds less than we counted
	}
	return n, err
}

// keep takes what is left out of the worker's buffer.
func (c *chunk) keep() {
	if c.lent {
		c.data, c.lent, c.held = append([]byte(nil), c.data...), false, len(c.data)
		stuck.add(c.held)
	}
}

// spill moves what is left from the pipe into memory, so that a blocked
// direction keeps no pipe from others. A pipe that can't be read stays: the
// next write will meet the same error.
func (c *chunk) spill() {
	if c.pipe == nil {
		return
	}
	if !stuck.room(c.n) {
		return // it is not well with others, but better than without memory
	}
	data := make([]byte, c.n)
	for got := 0; got < len(data); {
		n, err := read(c.pipe.r, data[got:])
		if err != nil || n == 0 {
			return
		}
		got += n
	}
	pipes.put(c.pipe)
	c.pipe, c.data, c.held = nil, data, len(data)
	stuck.add(c.held)
}

// release gives the pipe back; one with bytes left is closed.
func (c *chunk) release() {
	switch {
	case c.pipe != nil && c.n == 0:
		pipes.put(c.pipe)
	case c.pipe != nil:
		pipes.discard(c.pipe)
	}
	stuck.add(-c.held)
	*c = chunk{}
}
