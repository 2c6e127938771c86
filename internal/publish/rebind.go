package publish

import (
	"context"
	"fmt"
)

// Rebind moves the listeners whose address ListenOn has changed. Connections that
// stand go on; a UDP client's next datagram makes a new session. A listener that
// can't be had at its new address is listed with the reason, and tried again by
// the next Publish, Renew or Rebind: better none than one where it must not be.
func (t *Table) Rebind(ctx context.Context) {
	for e, err := range t.rebind(ctx) {
		problem := err.Error()
		if isTaken(err) {
			problem = fmt.Sprintf("%s%s", problem, t.holder(ctx, e.binding))
		}
		t.cfg.Log.Warn("published port has no listener", "binding", e.binding, "error", problem)
		t.mu.Lock()
		e.problem = problem
		t.mu.Unlock()
	}
}

// rebind returns the entries that have no listener any more.
func (t *Table) rebind(ctx context.Context) map[*entry]error {
	t.mu.Lock()
	defer t.mu.Unlock()
	var moved []*entry
	for _, e := range t.entries {
		if t.closed || e.listens == t.cfg.ListenOn(e.binding.Host.Addr()) {
			continue
		}
		moved = append(moved, e)
		if e.listener != nil {
			_ = e.listener.Close() // before any other is made: it may be in the way
		}
	}
	failed := map[*entry]error{}
	for _, old := range moved {
		e := old.again()
		t.entries[keyOf(e.binding)] = e
		if old.kept() {
			old.endGrace()
			t.keepLocked(e)
		}
		if err := t.listen(ctx, e); err != nil {
			e.problem = err.Error()
			failed[e] = err
		}
	}
	return failed
}

// again is an entry for the same binding, whose connections it counts.
func (e *entry) again() *entry {
	n := newEntry(e.binding)
	n.since, n.added, n.conns, n.stood = e.since, e.added, e.conns, true
	n.proxy.Store(e.proxy.Load())
	return n
}
