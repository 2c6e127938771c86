package poll

import (
	"maps"
	"runtime"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Theory of operation
//
// A loop is a thread that waits in epoll for hundreds of descriptors. Compared
// with a goroutine for each, an idle descriptor costs no stack, and one that is
// ready wakes one thread and not three (Go's poller, its monitor, and the
// goroutine's). A round of a loop is: take events, tell their watchers, do what
// others asked for, let each task have its turn, ring alarms.
//
// A loop blocks in a system call that Go's scheduler knows of, and keeps a
// scheduler slot (a P) meanwhile. So the program gets as many more of them. Their
// number stays from then on: Go no longer follows a CPU limit that changes.

const (
	maxLoops   = 8
	eventsRead = 128 // of one epoll_wait
	// yieldEvery is less than the 10 ms after which Go's monitor takes the slot of a
	// goroutine that has not yielded, and naps 20 microseconds at a time from then on.
	yieldEvery = 5 * time.Millisecond
)

// Watcher hears of the descriptors that it has in a loop.
type Watcher interface {
	// Ready is called by the loop's thread and must not wait. Tag and events are
	// those of Loop.Watch and of epoll_wait(2).
	Ready(tag int32, events uint32)
}

// Task is what a Watcher does once all events of a round are known.
type Task interface {
	// Turn is called by the loop's thread, must not wait, and reports whether
	// there is more to do once others have had their turn.
	Turn() (more bool)
}

// crew is the loops, once one is wanted.
var crew struct {
	mu    sync.Mutex // guards the rest
	loops []*Loop
	next  int
}

// Next returns the loops of this process in turn, or nil if the kernel gives
// none now.
func Next() *Loop {
	crew.mu.Lock()
	defer crew.mu.Unlock()
	if len(crew.loops) == 0 {
		crew.loops = start(min(runtime.GOMAXPROCS(0), maxLoops)) // which heeds affinity and cgroup
	}
	if len(crew.loops) == 0 {
		return nil
	}
	crew.next = (crew.next + 1) % len(crew.loops)
	return crew.loops[crew.next]
}

// start starts n loops, or none: what is short comes back, and a crew stays.
func start(n int) []*Loop {
	var made []*Loop
	for range n {
		l, err := newLoop()
		if err != nil {
			for _, l := range made {
				l.close()
			}
			return nil
		}
		made = append(made, l)
	}
	runtime.GOMAXPROCS(runtime.GOMAXPROCS(0) + n)
	for _, l := range made {
		go l.run()
	}
	return made
}

// Loop is one thread. Its methods may be called from any goroutine, except where
// they say otherwise.
type Loop struct {
	epoll, wakeup int

	mu       sync.Mutex
	watchers map[int32]Watcher // guarded by mu; by what their events carry
	last     int32             // guarded by mu
	asked    []func()          // guarded by mu

	// The thread's own.
	tasks  []Task // to be done in this round
	later  []Task // had their turn and have more to do
	alarms []alarm
}

type alarm struct {
	at   time.Time
	ring func()
}

func newLoop() (*Loop, error) {
	epoll, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, err
	}
	wakeup, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err == nil {
		err = unix.EpollCtl(epoll, unix.EPOLL_CTL_ADD, wakeup, &unix.EpollEvent{Events: unix.EPOLLIN | unix.EPOLLET})
	}
	l := &Loop{epoll: epoll, wakeup: wakeup, watchers: map[int32]Watcher{}}
	if err != nil {
		l.close()
		return nil, err
	}
	return l, nil
}

// close undoes newLoop.
func (l *Loop) close() {
	_ = unix.Close(l.epoll)
	_ = unix.Close(l.wakeup) // -1 if there is none
}

// Add gives w a number that no other watcher of the loop has.
func (l *Loop) Add(w Watcher) (id int32) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for taken := true; taken; _, taken = l.watchers[l.last] {
		l.last = max(l.last+1, 1) // 0 is the eventfd's
	}
	l.watchers[l.last] = w
	return l.last
}

// Remove forgets a watcher: on the loop's thread it hears nothing from then on,
// elsewhere after the events that are being told now.
func (l *Loop) Remove(id int32) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.watchers, id)
}

// Watchers are those that have not been removed.
func (l *Loop) Watchers() []Watcher {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Collect(maps.Values(l.watchers))
}

// Watch tells the watcher of these events (EPOLLIN and so on) of fd, which the
// loop has not.
func (l *Loop) Watch(id, tag int32, fd int, events uint32) error {
	return unix.EpollCtl(l.epoll, unix.EPOLL_CTL_ADD, fd, &unix.EpollEvent{Events: events, Fd: id, Pad: tag})
}

// Change is Watch for an fd that the loop has.
func (l *Loop) Change(id, tag int32, fd int, events uint32) error {
	return unix.EpollCtl(l.epoll, unix.EPOLL_CTL_MOD, fd, &unix.EpollEvent{Events: events, Fd: id, Pad: tag})
}

// Unwatch undoes Watch, as does the close of the last descriptor of a socket.
func (l *Loop) Unwatch(fd int) {
	_ = unix.EpollCtl(l.epoll, unix.EPOLL_CTL_DEL, fd, nil) // fails if it is not watched
}

// Do calls f on the loop's thread, soon.
func (l *Loop) Do(f func()) {
	l.mu.Lock()
	l.asked = append(l.asked, f)
	l.mu.Unlock()
	_, _ = unix.Write(l.wakeup, []byte{1, 0, 0, 0, 0, 0, 0, 0}) // full means that it is awake
}

// Call is Do that returns when f has. It is not for the loop's own thread.
func (l *Loop) Call(f func()) {
	done := make(chan struct{})
	l.Do(func() {
		defer close(done)
		f()
	})
	<-done
}

// Queue gives t a turn in this round. Only the loop's thread may call it, and
// once for each turn.
func (l *Loop) Queue(t Task) { l.tasks = append(l.tasks, t) }

// After calls ring on the loop's thread once d has passed. Only that thread may
// call it.
func (l *Loop) After(d time.Duration, ring func()) {
	l.alarms = append(l.alarms, alarm{time.Now().Add(d), ring})
}

// run is the thread.
func (l *Loop) run() {
	events := make([]unix.EpollEvent, eventsRead)
	for yielded := time.Now(); ; {
		if now := time.Now(); now.Sub(yielded) >= yieldEvery {
			yielded = now
			runtime.Gosched()
		}
		n, err := unix.EpollWait(l.epoll, events, l.patience())
		if err != nil {
			n = 0 // a signal
		}
		for _, event := range events[:n] {
			if w := l.watcher(event.Fd); w != nil { // else it was removed, or this is the eventfd
				w.Ready(event.Pad, event.Events)
			}
		}
		for _, f := range l.takeAsked() {
			f()
		}
		l.work()
		l.ring()
	}
}

// patience is epoll_wait's time-out, in milliseconds.
func (l *Loop) patience() int {
	switch {
	case len(l.tasks) > 0:
		return 0
	case len(l.alarms) > 0:
		first := slices.MinFunc(l.alarms, func(a, b alarm) int { return a.at.Compare(b.at) })
		return int(max(0, time.Until(first.at)+time.Millisecond-1) / time.Millisecond)
	}
	return -1
}

func (l *Loop) watcher(id int32) Watcher {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.watchers[id]
}

func (l *Loop) takeAsked() []func() {
	l.mu.Lock()
	defer l.mu.Unlock()
	asked := l.asked
	l.asked = nil
	return asked
}

// work gives each task its turn. A task that another one queues is of this round.
func (l *Loop) work() {
	for i := 0; i < len(l.tasks); i++ {
		if t := l.tasks[i]; t.Turn() {
			l.later = append(l.later, t)
		}
	}
	clear(l.tasks)
	l.tasks, l.later = l.later, l.tasks[:0]
}

// ring rings the alarms that are due.
func (l *Loop) ring() {
	if len(l.alarms) == 0 {
		return
	}
	now, all := time.Now(), l.alarms
	l.alarms = nil
	for _, a := range all {
		if a.at.After(now) {
			l.alarms = append(l.alarms, a)
			continue
		}
		a.ring()
	}
}
