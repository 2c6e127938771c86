package router

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/portolan-net/portolan/internal/poll"
)

// watched is descriptors that a loop tells a watcher of when they are readable,
// with their index as tag. All but serve is the loop thread's own.
type watched struct {
	all    []*descriptor
	loop   *poll.Loop
	id     int32
	failed chan error // has room for one
	ended  bool
}

// serve lets w hear of them until ctx ends, or returns the error of fail. The loop's
// thread has nothing to do with w any more then.
func (s *watched) serve(ctx context.Context, w poll.Watcher) error {
	if s.loop = poll.Next(); s.loop == nil {
		return errors.New("watch the router: descriptors or memory are short")
	}
	s.failed = make(chan error, 1)
	defer s.loop.Call(s.end)
	var err error
	s.loop.Call(func() { err = s.begin(w) })
	if err != nil {
		return err
	}
	select {
	case <-ctx.Done():
		return nil
	case err := <-s.failed:
		return err
	}
}

func (s *watched) begin(w poll.Watcher) error {
	s.id = s.loop.Add(w)
	for _, d := range s.all {
		if err := s.watch(d); err != nil {
			return err
		}
	}
	return nil
}

func (s *watched) watch(d *descriptor) (err error) {
	tag := int32(slices.Index(s.all, d))
	closed := d.Control(func(fd uintptr) { err = s.loop.Watch(s.id, tag, int(fd), unix.EPOLLIN) })
	if err := errors.Join(closed, err); err != nil {
		return fmt.Errorf("watch the router: %w", err)
	}
	return nil
}

func (s *watched) unwatch(d *descriptor) {
	_ = d.Control(func(fd uintptr) { s.loop.Unwatch(int(fd)) }) // the helper has it, too: its close is not enough
}

func (s *watched) end() {
	s.ended = true
	for _, d := range s.all {
		s.unwatch(d)
	}
	s.loop.Remove(s.id)
}

// fail makes serve return; d is heard of no more.
func (s *watched) fail(d *descriptor, err error) {
	s.unwatch(d)
	select {
	case s.failed <- err:
	default: // it returns already
	}
}

// pause lets d be unheard of for a while.
func (s *watched) pause(d *descriptor, duration time.Duration) {
	s.unwatch(d)
	s.loop.After(duration, func() {
		if s.ended {
			return
		}
		if err := s.watch(d); err != nil {
			s.fail(d, err)
		}
	})
}
