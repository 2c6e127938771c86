package lab

import (
	"time"
	"unsafe"
)

// Jumped is now as time.Now would return it if the computer's clock had been set
// by so much, in whole seconds: its wall time differs, its monotonic time does
// not. It knows how time.Time is laid out, and panics when that has changed.
func Jumped(now time.Time, by time.Duration) time.Time {
	const (
		hasMonotonic = 1 << 63
		secondsShift = 30 // below are nanoseconds
	)
	jumped := now
	wall := (*uint64)(unsafe.Pointer(&jumped)) //nolint:gosec // there is no other way
	if *wall&hasMonotonic == 0 {
		panic("lab.Jumped: the time has no monotonic reading")
	}
	*wall += uint64(by/time.Second) << secondsShift //nolint:gosec // it wraps as it has to
	*wall |= hasMonotonic
	if jumped.Round(0).Sub(now.Round(0)) != by || jumped.Sub(now) != 0 {
		panic("lab.Jumped: time.Time has another layout")
	}
	return jumped
}
