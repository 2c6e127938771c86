package relay

import (
	"net/netip"
	"runtime"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Theory of operation
//
// Flows between kernel sockets are not carried by goroutines: each belongs to a
// worker, a thread that waits in epoll for hundreds of flows and moves what is
// ready. Compared with a goroutine for each direction, an idle flow costs no
// stack, a byte that arrives wakes one thread and not three (Go's poller, its
// monitor, and the goroutine's), and an RST is an event whatever the flow waits
// for. Events are edge-triggered: what is readable and writable is remembered
// until a call says EAGAIN.
//
// A worker blocks in a system call that Go's scheduler knows of, and keeps a
// scheduler slot (a P) meanwhile. So the program gets as many more of them. Their
// number stays from then on: Go no longer follows a CPU limit that changes.

const (
	maxWorkers = 8
	eventsRead = 128 // of one epoll_wait
	// turn is how many chunks a direction moves before others have their turn.
	turn = 4
)

// blockedAfter is how long a write may wait before the direction counts as
// blocked: its pipe goes back to the others then. Bulk transfers block all the
// time for far less.
const blockedAfter = 20 * time.Millisecond

// crew is the workers, once the first flow has come.
var crew struct {
	mu      sync.Mutex // guards the rest
	workers []*worker
	next    int
}

// assign returns the worker of a new flow, or nil if the kernel gives none now.
func assign() *worker {
	crew.mu.Lock()
	defer crew.mu.Unlock()
	if len(crew.workers) == 0 {
		crew.workers = hire(min(runtime.GOMAXPROCS(0), maxWorkers)) // which heeds affinity and cgroup
	}
	if len(crew.workers) == 0 {
		return nil
	}
	crew.next = (crew.next + 1) % len(crew.workers)
	return crew.workers[crew.next]
}

// hire starts n workers, or none: what is short comes back, and a crew stays.
func hire(n int) []*worker {
	var made []*worker
	for range n {
		w, err := newWorker()
		if err != nil {
			for _, w := range made {
				w.close()
			}
			return nil
		}
		made = append(made, w)
	}
	runtime.GOMAXPROCS(runtime.GOMAXPROCS(0) + n)
	for _, w := range made {
		go w.run()
	}
	return made
}

// worker is one thread and its flows.
type worker struct {
	epoll  int
	wakeup int // an eventfd

	mu      sync.Mutex
	flows   map[int32]*flow // guarded by mu; by what their events carry
	last    int32           // guarded by mu
	aborted []*flow         // guarded by mu

	// The thread's own.
	scratch [scratchSize]byte
	queue   []*flow // to be looked at in this round
	later   []*flow // had their turn and have more to move
	blocked []*half // wait for a peer that reads slowly, since less than blockedAfter
}

func newWorker() (*worker, error) {
	epoll, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, err
	}
	wakeup, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err == nil {
		err = unix.EpollCtl(epoll, unix.EPOLL_CTL_ADD, wakeup, &unix.EpollEvent{Events: unix.EPOLLIN | unix.EPOLLET})
	}
	w := &worker{epoll: epoll, wakeup: wakeup, flows: map[int32]*flow{}}
	if err != nil {
		w.close()
		return nil, err
	}
	return w, nil
}

// close undoes newWorker.
func (w *worker) close() {
	_ = unix.Close(w.epoll)
	_ = unix.Close(w.wakeup) // -1 if there is none
}

// watched is what a worker wants to hear of a socket; errors come unasked.
const watched = unix.EPOLLIN | unix.EPOLLOUT | unix.EPOLLRDHUP | unix.EPOLLPRI | unix.EPOLLET

// add gives f to the worker, which resets it if the kernel watches no more.
func (w *worker) add(f *flow) {
	f.mu.Lock() // the thread waits until both ends are watched
	defer f.mu.Unlock()
	w.remember(f)
	for i := range f.ends {
		event := unix.EpollEvent{Events: watched, Fd: f.id, Pad: int32(i)}
		if unix.EpollCtl(w.epoll, unix.EPOLL_CTL_ADD, f.ends[i].fd, &event) != nil {
			w.abort(f) // f.done is the thread's to call
			return
		}
	}
}

// remember gives f a number that no other flow of the worker has.
func (w *worker) remember(f *flow) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for taken := true; taken; _, taken = w.flows[w.last] {
		w.last = max(w.last+1, 1) // 0 is the eventfd's
	}
	f.id = w.last
	w.flows[f.id] = f
}

func (w *worker) forget(f *flow) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.flows, f.id)
}

// abort makes the thread reset f, if it has not ended.
func (w *worker) abort(f *flow) {
	w.mu.Lock()
	w.aborted = append(w.aborted, f)
	w.mu.Unlock()
	_, _ = unix.Write(w.wakeup, []byte{1, 0, 0, 0, 0, 0, 0, 0}) // full means that it is awake
}

// resetKernelFrom is ResetFrom for the flows of all workers.
func resetKernelFrom(addr netip.Addr) (n int) {
	crew.mu.Lock()
	workers := crew.workers // which never changes once it is there
	crew.mu.Unlock()
	for _, w := range workers {
		lost := w.from(addr)
		for _, f := range lost {
			w.abort(f)
		}
		n += len(lost)
	}
	return n
}

// from are the flows that have addr as an address of ours.
func (w *worker) from(addr netip.Addr) (found []*flow) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, f := range w.flows {
		if slices.ContainsFunc(f.ends[:], func(e end) bool { return e.tcp && hasAddress(e.owner, addr) }) {
			found = append(found, f)
		}
	}
	return found
}

// run is the thread.
func (w *worker) run() {
	events := make([]unix.EpollEvent, eventsRead)
	for {
		n, err := unix.EpollWait(w.epoll, events, w.patience())
		if err != nil {
			n = 0 // a signal
		}
		w.collect(events[:n])
		for _, f := range w.queue {
			f.queued = false
			if f.move() {
				f.queued = true
				w.later = append(w.later, f)
			}
			f.tell()
		}
		clear(w.queue)
		w.queue = append(w.queue[:0], w.later...)
		clear(w.later)
		w.later = w.later[:0]
		w.reviewBlocked()
	}
}

// patience is epoll_wait's time-out, in milliseconds.
func (w *worker) patience() int {
	switch {
	case len(w.queue) > 0:
		return 0
	case len(w.blocked) > 0:
		return int(blockedAfter.Milliseconds())
	}
	return -1
}

// collect notes what events say, and queues their flows.
func (w *worker) collect(events []unix.EpollEvent) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, event := range events {
		f := w.flows[event.Fd]
		if f == nil {
			continue // it has ended, or this is the eventfd
		}
		f.ends[event.Pad].note(event.Events)
		w.enqueue(f)
	}
	for _, f := range w.aborted {
		if w.flows[f.id] == f {
			f.ends[0].failed = true
			w.enqueue(f)
		}
	}
	clear(w.aborted)
	w.aborted = w.aborted[:0]
}

func (w *worker) enqueue(f *flow) {
	if !f.queued {
		f.queued = true
		w.queue = append(w.queue, f)
	}
}

// reviewBlocked takes the pipes of directions that have waited for long.
func (w *worker) reviewBlocked() {
	if len(w.blocked) == 0 {
		return
	}
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
	w.blocked = kept
}
