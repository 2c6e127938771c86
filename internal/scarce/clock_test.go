package scarce

import (
	"testing"
	"time"

	"github.com/portolan-net/portolan/internal/lab"
)

// A clock that is set by hours neither silences nor repeats.
func TestSeldomWhenTheClockJumps(t *testing.T) {
	for _, by := range []time.Duration{-5 * time.Hour, 5 * time.Hour} {
		var s Seldom
		now := time.Now()
		if !s.at(now) {
			t.Fatal("silent at first")
		}
		if s.at(lab.Jumped(now, by).Add(time.Second)) {
			t.Errorf("clock set by %v: said again after a second", by)
		}
		if !s.at(lab.Jumped(now, by).Add(seldom)) {
			t.Errorf("clock set by %v: silent after a minute", by)
		}
	}
}
