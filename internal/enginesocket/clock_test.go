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
		if s.busy(time.Now()) {
			t.Error("busy before anything was asked")
		}
		now := time.Now()
		s.asked.Store(moment(now))
		jumped := lab.Jumped(now, by)
		if !s.busy(jumped.Add(time.Hour)) {
			t.Errorf("clock set by %v: not busy with a request without an answer", by)
		}
		s.answered.Store(moment(jumped.Add(time.Second)))
		if !s.busy(jumped.Add(2 * time.Second)) {
			t.Errorf("clock set by %v: not busy a second after the answer", by)
		}
		if s.busy(jumped.Add(time.Second + quiet)) {
			t.Errorf("clock set by %v: busy %v after the answer", by, quiet)
		}
		s.lasting.Store(true)
		if !s.busy(jumped.Add(quietLasting)) || s.busy(jumped.Add(time.Second+quietLasting)) {
			t.Errorf("clock set by %v: a pull that pauses is not busy for %v", by, quietLasting)
		}
	}
}
