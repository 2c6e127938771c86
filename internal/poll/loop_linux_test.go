package poll

import (
	"os"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// told is a Watcher that passes on what it hears.
type told chan int32

func (w told) Ready(tag int32, _ uint32) { w <- tag }

// eventfd returns a descriptor that is readable once something was written.
func eventfd(t *testing.T) int {
	t.Helper()
	fd, err := unix.Eventfd(0, unix.EFD_NONBLOCK)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Close(fd) })
	return fd
}

func write(t *testing.T, fd int) {
	t.Helper()
	if _, err := unix.Write(fd, []byte{1, 0, 0, 0, 0, 0, 0, 0}); err != nil {
		t.Fatal(err)
	}
}

func next(t *testing.T) *Loop {
	t.Helper()
	l := Next()
	if l == nil {
		t.Fatal("the kernel gives no loop")
	}
	return l
}

func wantTold(t *testing.T, w told, want int32) {
	t.Helper()
	select {
	case tag := <-w:
		if tag != want {
			t.Fatalf("told of tag %d, want %d", tag, want)
		}
	case <-time.After(5 * time.Second):
		t.Fatal("told of nothing for 5 s")
	}
}

func TestWatch(t *testing.T) {
	l, first, second, w := next(t), eventfd(t), eventfd(t), make(told, 10)
	id := l.Add(w)
	for tag, fd := range []int{first, second} {
		if err := l.Watch(id, int32(tag), fd, unix.EPOLLIN|unix.EPOLLET); err != nil {
			t.Fatal(err)
		}
	}
	if err := l.Watch(id, 0, first, unix.EPOLLIN); err != unix.EEXIST {
		t.Errorf("watched twice: %v, want EEXIST", err)
	}
	write(t, second)
	wantTold(t, w, 1)
	write(t, first)
	wantTold(t, w, 0)
	if err := l.Change(id, 7, first, unix.EPOLLIN|unix.EPOLLET); err != nil {
		t.Fatal(err)
	}
	wantTold(t, w, 7) // it is still readable
	l.Unwatch(first)
	write(t, first)
	if !slices.Contains(l.Watchers(), Watcher(w)) {
		t.Error("the watcher is not there")
	}
	l.Call(func() { l.Remove(id) })
	write(t, second)
	l.Call(func() {}) // a round later
	if slices.Contains(l.Watchers(), Watcher(w)) || len(w) != 0 {
		t.Errorf("a watcher that was removed is still there, or was told of %d events", len(w))
	}
}

// turns is a Task of several turns.
type turns struct {
	left  int
	trace chan<- *turns
}

func (t *turns) Turn() bool {
	t.trace <- t
	t.left--
	return t.left > 0
}

// Tasks have their turns one after the other, and no alarm waits for the last.
func TestTasksTakeTurns(t *testing.T) {
	l, trace := next(t), make(chan *turns, 10)
	a, b := &turns{3, trace}, &turns{2, trace}
	l.Do(func() { l.Queue(a); l.Queue(b) })
	for i, want := range []*turns{a, b, a, b, a} {
		select {
		case got := <-trace:
			if got != want {
				t.Fatalf("turn %d is another's", i)
			}
		case <-time.After(5 * time.Second):
			t.Fatalf("no turn %d for 5 s", i)
		}
	}
}

func TestAfter(t *testing.T) {
	l, rung := next(t), make(chan string, 2)
	began := time.Now()
	var early atomic.Bool
	l.Do(func() {
		l.After(40*time.Millisecond, func() { rung <- "second" })
		l.After(20*time.Millisecond, func() {
			early.Store(time.Since(began) < 20*time.Millisecond)
			rung <- "first"
		})
	})
	for _, want := range []string{"first", "second"} {
		select {
		case got := <-rung:
			if got != want {
				t.Errorf("%s alarm rang, want the %s", got, want)
			}
		case <-time.After(5 * time.Second):
			t.Fatalf("the %s alarm has not rung after 5 s", want)
		}
	}
	if early.Load() {
		t.Error("an alarm rang too early")
	}
}

// Loops of which one could not be made are no crew: who asks next tries again.
func TestStartAllOrNone(t *testing.T) {
	before := openDescriptors(t)
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	spare, err := unix.Dup(0) // the lowest that is free
	if err != nil {
		t.Fatal(err)
	}
	_ = unix.Close(spare)
	short := unix.Rlimit{Cur: uint64(spare) + 3, Max: limit.Max} // one loop and a half
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &short); err != nil {
		t.Fatal(err)
	}
	made := start(2)
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	if made != nil {
		t.Error("two loops with three descriptors")
	}
	if after := openDescriptors(t); after != before {
		t.Errorf("%d descriptors before, %d after", before, after)
	}
}

func openDescriptors(t *testing.T) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}
