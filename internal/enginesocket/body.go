package enginesocket

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"strconv"
	"strings"
)

// walker finds a body's end in the bytes that go by.
type walker interface {
	// walk returns how many bytes of p, which is not empty, belong to the body,
	// and whether it ends with them.
	walk(p []byte) (n int, done bool, err error)
}

// newWalker returns nil for a request without a body.
func (h *head) newWalker() walker {
	switch {
	case h.chunked:
		return &chunks{}
	case h.length > 0:
		return &counted{left: h.length}
	}
	return nil
}

// counted is a body of known length.
type counted struct{ left int64 }

func (c *counted) walk(p []byte) (int, bool, error) {
	n := min(int64(len(p)), c.left)
	c.left -= n
	return int(n), c.left == 0, nil
}

// chunks is a body in chunked coding (RFC 9112, 7.1):
//
//	state     bytes                    next
//	sizeLine  hex size, CR LF          data, or trailer after size 0
//	data      size bytes               dataEnd
//	dataEnd   CR LF                    sizeLine
//	trailer   lines, an empty one last the end
type chunks struct {
	state   int
	left    int64  // in data
	line    []byte // in the other states: what has come of the line
	trailer int    // bytes of trailer lines
}

const (
	sizeLine = iota
	data
	dataEnd
	trailer
)

// maxLine bounds a line between chunks, as net/http does.
const maxLine = 4096

func (c *chunks) walk(p []byte) (int, bool, error) {
	for pos := 0; pos < len(p); {
		if c.state == data {
			n := min(int64(len(p)-pos), c.left)
			pos += int(n)
			if c.left -= n; c.left == 0 {
				c.state = dataEnd
			}
			continue
		}
		n := bytes.IndexByte(p[pos:], '\n') + 1
		if n == 0 {
			n = len(p) - pos
		}
		c.line = append(c.line, p[pos:pos+n]...)
		pos += n
		if len(c.line) > maxLine {
			return pos, false, badRequest("line between chunks is longer than 4 KiB")
		}
		if c.line[len(c.line)-1] != '\n' {
			continue
		}
		line, whole := strings.CutSuffix(string(c.line), "\r\n")
		if !whole || strings.ContainsFunc(line, isControl) {
			return pos, false, badRequest("line between chunks is damaged")
		}
		c.line = c.line[:0]
		if done, err := c.take(line); done || err != nil {
			return pos, done, err
		}
	}
	return len(p), false, nil
}

// take goes on with a whole line.
func (c *chunks) take(line string) (done bool, err error) {
	switch c.state {
	case sizeLine:
		text, _, _ := strings.Cut(line, ";") // extensions count for nobody
		size, err := strconv.ParseUint(text, 16, 63)
		if err != nil || len(text) > 16 {
			return false, badRequest("size of a chunk is no number")
		}
		c.left, c.state = int64(size), data
		if size == 0 {
			c.state = trailer
		}
	case dataEnd:
		if line != "" {
			return false, badRequest("chunk is longer than it says")
		}
		c.state = sizeLine
	case trailer:
		if c.trailer += len(line); c.trailer > maxHead {
			return false, badRequest("trailer is longer than 1 MiB")
		}
		return line == "", nil
	}
	return false, nil
}

// forward carries a body from r to w as it comes.
func forward(w io.Writer, r *bufio.Reader, body walker) error {
	for {
		if _, err := r.Peek(1); err != nil {
			return err
		}
		p, err := r.Peek(r.Buffered())
		if err != nil {
			return err
		}
		n, done, bad := body.walk(p)
		if bad != nil {
			return bad // the engine never gets to see the bytes that are wrong
		}
		if _, err := w.Write(p[:n]); err != nil {
			return upstreamError{err}
		}
		if _, err := r.Discard(n); err != nil || done {
			return err
		}
	}
}

// upstreamError is one of the engine's side: it may have answered before it
// stopped to listen.
type upstreamError struct{ error }

func (e upstreamError) Unwrap() error { return e.error }

// readBody reads a body as a whole, decoded; more than limit bytes is an error.
func readBody(r *bufio.Reader, h *head, limit int64) ([]byte, error) {
	var raw bytes.Buffer
	if body := h.newWalker(); body != nil {
		if err := forward(&limited{&raw, limit}, r, body); err != nil {
			return nil, err
		}
	}
	if !h.chunked {
		return raw.Bytes(), nil
	}
	return dechunk(raw.Bytes())
}

// limited refuses to become longer than its limit.
type limited struct {
	*bytes.Buffer

	limit int64
}

func (l *limited) Write(p []byte) (int, error) {
	if int64(l.Len()+len(p)) > l.limit {
		return 0, badRequest(fmt.Sprintf("body is longer than %d MiB", l.limit>>20))
	}
	return l.Buffer.Write(p)
}

// dechunk decodes what a chunks walker has found to be right.
func dechunk(raw []byte) ([]byte, error) {
	var out []byte
	for {
		line, rest, ok := bytes.Cut(raw, []byte("\r\n"))
		text, _, _ := bytes.Cut(line, []byte(";"))
		size, err := strconv.ParseUint(string(text), 16, 63)
		if !ok || err != nil || size > uint64(len(rest)) {
			return nil, badRequest("chunks are damaged")
		}
		if size == 0 {
			return out, nil
		}
		out = append(out, rest[:size]...)
		raw = bytes.TrimPrefix(rest[size:], []byte("\r\n"))
	}
}
