package relay

import (
	"net/netip"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/portolan-net/portolan/internal/poll"
)

// Theory of operation
//
// Flows between kernel sockets are not carried by goroutines: each belongs to a
// worker, which moves what is ready, on the thread of a loop (package poll). An
// idle flow costs no stack, and an RST is an event whatever the flow waits for.
// Events are edge-triggered: what is readable and writable is remembered until a
// call says EAGAIN. Every socket is writable at first, so a worker asks to be told
// that one is only after a write that found no room: most flows need no such event.

// turn is how many chunks a direction moves before others have their turn.
const turn = 4

// blockedAfter is how long a write may wait before the direction counts as
// blocked: its pipe goes back to the others then. Bulk transfers block all the
// time for far less.
const blockedAfter = 20 * time.Millisecond

// crew is the workers of the loops that have had a flow.
var crew struct {
	mu      sync.Mutex
	workers map[*poll.Loop]*worker // guarded by mu
}

// assign returns the worker of a new flow, or nil if the kernel gives none now.
func assign() *worker {
	loop := poll.Next()
	if loop == nil {
		return nil
	}
	crew.mu.Lock()
	defer crew.mu.Unlock()
	w := crew.workers[loop]
	if w == nil {
		w = &worker{loop: loop}
		if crew.workers == nil {
			crew.workers = map[*poll.Loop]*worker{}
		}
		crew.workers[loop] = w
	}
	return w
}

// worker is what the flows of one loop share. All but loop is its thread's own.
type worker struct {
	loop    *poll.Loop
	scratch [scratchSize]byte
	blocked []*half // wait for a peer that reads slowly, since less than blockedAfter
}

// watched is what a worker wants to hear of a socket; errors come unasked.
const watched = unix.EPOLLIN | unix.EPOLLRDHUP | unix.EPOLLPRI | unix.EPOLLET

// add gives f to the worker, which resets it if the kernel watches no more.
func (w *worker) add(f *flow) {
	f.mu.Lock() // the thread waits until both ends are watched
	defer f.mu.Unlock()
	for i := range f.ends {
		f.ends[i].tag, f.ends[i].writable = int32(i), true
	}
	f.id = w.loop.Add(f)
	for i := range f.ends {
		if w.loop.Watch(f.id, f.ends[i].tag, f.ends[i].fd, watched) != nil {
			w.abort(f) // f.done is the thread's to call
			return
		}
	}
}

// awaitRoom notes that e is full, and makes its being writable an event.
func (f *flow) awaitRoom(e *end) error {
	e.writable = false
	if e.awaited {
		return nil
	}
	e.awaited = true
	return f.worker.loop.Change(f.id, e.tag, e.fd, watched|unix.EPOLLOUT)
}

// abort makes the thread reset f, if the worker has it and it has not ended.
func (w *worker) abort(f *flow) {
	w.loop.Do(func() {
		f.mu.Lock()
		f.ends[0].failed = f.id != 0
		f.mu.Unlock()
		w.enqueue(f)
	})
}

// resetKernelFrom is ResetFrom for the flows of all workers.
func resetKernelFrom(addr netip.Addr) (n int) {
	crew.mu.Lock()
	defer crew.mu.Unlock()
	for _, w := range crew.workers {
		for _, watcher := range w.loop.Watchers() {
			if f, ok := watcher.(*flow); ok && f.from(addr) {
				w.abort(f)
				n++
			}
		}
	}
	return n
}

// from reports whether addr is an address of ours in f. It looks at what never
// changes only.
func (f *flow) from(addr netip.Addr) bool {
	for i := range f.ends {
		if e := &f.ends[i]; e.tcp && OwnAddress(e.owner) == addr {
			return true
		}
	}
	return false
}

// Ready implements poll.Watcher. The tag is that of an end.
func (f *flow) Ready(tag int32, events uint32) {
	f.ends[tag].note(events)
	f.worker.enqueue(f)
}

func (w *worker) enqueue(f *flow) {
	if !f.queued {
		f.queued = true
		w.loop.Queue(f)
	}
}

// Turn implements poll.Task.
func (f *flow) Turn() (more bool) {
	f.queued = f.move()
	f.tell()
	return f.queued
}

// block lists a direction whose write waits with a pipe in hand.
func (w *worker) block(h *half) {
	if len(w.blocked) == 0 {
		w.loop.After(blockedAfter, w.reviewBlocked)
	}
	w.blocked = append(w.blocked, h)
}

// reviewBlocked takes the pipes of directions that have waited for long.
func (w *worker) reviewBlocked() {
	now, kept := time.Now(), w.blocked[:0]
	for _, h := range w.blocked {
		switch {
		case h.since.IsZero(): // moves again
			h.listed = false
		case now.Sub(h.since) < blockedAfter:
			kept = append(kept, h)
		default:
			h.listed = false
			h.chunk.spill()
		}
	}
	clear(w.blocked[len(kept):])
	if w.blocked = kept; len(kept) > 0 {
		w.loop.After(blockedAfter, w.reviewBlocked)
	}
}
