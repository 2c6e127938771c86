package relay

import (
	"errors"
	"io"
	"sync"

	"github.com/portolan-net/portolan/internal/datapath"
)

// bufferSize is what one buffered step moves. 64 KiB is also the most that one
// splice into a socket moves, and the largest UDP datagram fits.
const bufferSize = 64 << 10

// buffers lends buffers of bufferSize to whoever has bytes in hand.
var buffers = sync.Pool{New: func() any { return new([bufferSize]byte) }}

// copyBuffered carries src to dst through a buffer, for connections that are no
// TCP sockets of the kernel. It holds its buffer while idle.
func copyBuffered(src, dst datapath.Conn) (int64, error) {
	buf := buffers.Get().(*[bufferSize]byte)
	defer buffers.Put(buf)
	var total int64
	for {
		n, err := src.Read(buf[:])
		if n > 0 {
			written, werr := dst.Write(buf[:n])
			total += int64(written)
			if werr != nil {
				return total, werr
			}
		}
		if errors.Is(err, io.EOF) {
			return total, nil
		}
		if err != nil {
			return total, err
		}
	}
}
