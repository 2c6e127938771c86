package scarce

import (
	"sync/atomic"
	"time"
)

// seldom is how often a shortage is told: it lasts, and concerns thousands.
const seldom = time.Minute

// Seldom keeps a shortage from filling the log. Its zero value is ready.
// A clock that is set does not disturb it.
type Seldom struct{ last atomic.Pointer[time.Time] }

// Now reports whether a minute has passed since it last returned true.
func (s *Seldom) Now() bool { return s.at(time.Now()) }

func (s *Seldom) at(now time.Time) bool {
	last := s.last.Load()
	if last != nil && now.Sub(*last) < seldom {
		return false
	}
	told := now // so that only this one is on the heap
	return s.last.CompareAndSwap(last, &told)
}
