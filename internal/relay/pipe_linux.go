package relay

import (
	"sync"

	"golang.org/x/sys/unix"
)

// An unprivileged user gets 16,384 pages of pipes (pipe(7), pipe-user-pages-soft)
// before the kernel makes new ones tiny. These two stay at a quarter of that.
// A direction holds a pipe only from its read to the end of its write, so few
// are ever in use at once.
const (
	maxPipes = 32
	pipeSize = 512 << 10 // a pipe takes no splice of more, however few its pieces
	minPipe  = 64 << 10  // below this a buffer moves more at a time
)

// spliceSize is the most that is spliced at a time. The more it is, the less often
// sender, relay and receiver wake each other. Twice as much saves little beyond that,
// and stays in memory for a peer that never reads.
const spliceSize = 480 << 10

// largestPacket is how much of a stream the kernel puts into one packet, in whole
// segments: 64 KiB with the headers (tcp_xmit_size_goal).
const largestPacket = 64<<10 - 321

// pipes lends pipes to the directions that have bytes to move.
var pipes pipePool

// pipePool is a bounded set of empty pipes. Its zero value is ready.
type pipePool struct {
	mu   sync.Mutex
	idle []*pipe // guarded by mu
	open int     // guarded by mu; pipes that exist, lent or idle
}

// pipe is an empty non-blocking pipe, or one whose bytes a chunk counts.
type pipe struct{ r, w int }

// get returns an empty pipe, or nil when all are lent or the kernel gives none
// of a useful size.
func (p *pipePool) get() *pipe {
	p.mu.Lock()
	defer p.mu.Unlock()
	if n := len(p.idle); n > 0 {
		taken := p.idle[n-1]
		p.idle = p.idle[:n-1]
		return taken
	}
	if p.open >= maxPipes {
		return nil
	}
	made := newPipe()
	if made != nil {
		p.open++
	}
	return made
}

// put takes an empty pipe back.
func (p *pipePool) put(back *pipe) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.idle = append(p.idle, back)
}

// discard closes a pipe that may still hold bytes.
func (p *pipePool) discard(back *pipe) {
	back.close()
	p.mu.Lock()
	defer p.mu.Unlock()
	p.open--
}

// newPipe returns a pipe of at least minPipe bytes, or nil.
func newPipe() *pipe {
	var fds [2]int
	if err := unix.Pipe2(fds[:], unix.O_CLOEXEC|unix.O_NONBLOCK); err != nil {
		return nil
	}
	made := &pipe{r: fds[0], w: fds[1]}
	if _, err := unix.FcntlInt(uintptr(made.w), unix.F_SETPIPE_SZ, pipeSize); err == nil {
		return made
	}
	size, err := unix.FcntlInt(uintptr(made.w), unix.F_GETPIPE_SZ, 0)
	if err != nil || size < minPipe {
		made.close()
		return nil
	}
	return made
}

func (p *pipe) close() {
	_ = unix.Close(p.r) // a pipe's close has nothing to report
	_ = unix.Close(p.w)
}
