package daemon

import (
	"testing"
	"time"
)

// A computer with many connections is looked at less often.
func TestRest(t *testing.T) {
	for took, want := range map[time.Duration]time.Duration{
		0:                      busyLook,
		busyLook / lookShare:   busyLook,
		30 * time.Millisecond:  3 * time.Second,
		300 * time.Millisecond: longestRest,
	} {
		if got := rest(took); got != want {
			t.Errorf("after a look of %s rest is %s, want %s", took, got, want)
		}
	}
}
