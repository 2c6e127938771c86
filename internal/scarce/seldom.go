package scarce

import (
	"sync/atomic"
	"time"
)

// seldom is how often a shortage is told: it lasts, and concerns thousands.
const seldom = time.Minute

// Seldom keeps a shortage from filling the log. Its zero value is ready.
type Seldom struct{ last atomic.Int64 } // Unix nanoseconds

// Now reports whether a minute has passed since it last returned true.
func (s *Seldom) Now() bool { return s.at(time.Now()) }

func (s *Seldom) at(now time.Time) bool {
	last := s.last.Load()
	if last != 0 && now.UnixNano()-last < int64(seldom) {
		return false
	}
	return s.last.CompareAndSwap(last, now.UnixNano())
}
