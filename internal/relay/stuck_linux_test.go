package relay

import (
	"io"
	"testing"
)

// What peers that never read keep in memory is given back when their flows end,
// and while the budget is spent, other flows go on, with less at a time.
func TestStuckBytesAreBounded(t *testing.T) {
	noLeaks(t)
	blocked := relayed(t, plain)
	block(t, blocked.left)
	eventually(t, "the blocked flow's bytes are counted", func() bool { return stuck.held.Load() > 0 && lentPipes() == 0 })
	reset(t, blocked.left)
	blocked.await(t)
	if n := stuck.held.Load(); n != 0 {
		t.Errorf("%d bytes are counted after the flow has ended", n)
	}

	stuck.add(maxStuck) // as if thousands were blocked
	defer stuck.add(-maxStuck)
	if got := len(stuck.limit(make([]byte, scratchSize))); got != littleRead {
		t.Errorf("%d bytes are read at a time, want %d", got, littleRead)
	}
	flow := relayed(t, plain)
	const size = 1 << 20
	go func() { _, _ = flow.left.Write(make([]byte, size)) }()
	if n, err := io.CopyN(io.Discard, flow.right, size); n != size || err != nil {
		t.Errorf("%d bytes of %d arrive while the budget is spent: %v", n, size, err)
	}
	another := relayed(t, plain)
	block(t, another.left)
	if n := stuck.held.Load() - maxStuck; n > littleRead {
		t.Errorf("%d bytes more are kept, want at most %d", n, littleRead)
	}
}
