package relay

import "sync/atomic"

const (
	// maxStuck bounds what all blocked directions together keep in memory, but
	// for littleRead each. It is what 140 of them have who were stopped while
	// they had a full pipe, and as many times more who were not.
	maxStuck   = 64 << 20
	littleRead = 4 << 10
)

// stuck counts the bytes for peers that read slowly or never.
var stuck stuckBytes

// stuckBytes is a budget. Above it a blocked direction keeps its pipe, of which
// there are few, and less is read at a time, so that less can get stuck. Its zero
// value is ready.
type stuckBytes struct{ held atomic.Int64 }

func (s *stuckBytes) add(n int) { s.held.Add(int64(n)) }

// room reports whether n bytes more are within the budget.
func (s *stuckBytes) room(n int) bool { return s.held.Load()+int64(n) <= maxStuck }

// limit is the part of buf that may be filled.
func (s *stuckBytes) limit(buf []byte) []byte {
	if s.room(len(buf)) {
		return buf
	}
	return buf[:min(len(buf), littleRead)]
}
