package enginesocket

import (
	"testing"
	"time"

	"github.com/portolan-net/portolan/internal/lab"
)

// What waits for a quiet moment waits neither for hours nor not at all when the
// clock is set.
func TestQuietWhenTheClockJumps(t *testing.T) {
	for _, by := range []time.Duration{-5 * time.Hour, 5 * time.Hour} {
		var s session
		check := func(what string, at time.Time, want, wantResting bool) {
			t.Helper()
			if busy, resting := s.busy(at); busy != want || resting != wantResting {
				t.Errorf("clock set by %v, %s: busy %v, resting %v", by, what, busy, resting)
			}
		}
		now := time.Now()
		jumped := lab.Jumped(now, by)
		check("nothing asked", now, false, false)
		s.work.Store(&work{since: now})
		check("no answer", jumped.Add(time.Hour), true, false)
		check("no answer for long", jumped.Add(quietStream), false, false)
		s.answered.Store(moment(jumped.Add(time.Second)))
		check("an answer under way", jumped.Add(time.Second), true, false)
		check("an answer that rests", jumped.Add(2*time.Second), true, true)
		check("answered", jumped.Add(time.Second+quiet), false, false)
		s.work.Store(&work{since: now, first: true})
		check("the first of two requests", jumped.Add(2*time.Second), true, false)
		s.work.Store(&work{since: now, lasts: true})
		check("a pull that pauses", jumped.Add(quietLasting), true, false)
		check("a pull that says nothing", jumped.Add(time.Second+quietLasting), false, false)
		s.switched.Store(true)
		check("a stream", jumped.Add(time.Hour), true, false)
		check("a stream on which nothing comes", jumped.Add(time.Second+quietStream), false, false)
		s.said.Store(moment(jumped.Add(time.Hour)))
		check("a stream on which the client speaks", jumped.Add(time.Second+quietStream), true, false)
	}
}
