package publish

import (
	"io"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/portolan-net/portolan/internal/api"
	"github.com/portolan-net/portolan/internal/datapath"
	"github.com/portolan-net/portolan/internal/portolan"
	"github.com/portolan-net/portolan/internal/publish/forward"
	"github.com/portolan-net/portolan/internal/relay"
)

// entry is one binding of the table. Table.mu guards its fields, except where
// they say otherwise.
type entry struct {
	binding  portolan.Binding
	since    time.Time
	problem  string     // why listener is nil
	listener io.Closer  // nil when the binding failed, or needs none
	listens  netip.Addr // where listener was wanted last; it need not be the binding's
	grace    *time.Timer
	udp      *forward.UDP // nil for TCP
	added    bool         // by Add: no engine speaks for it
	stood    bool         // before: its address may be away now, and come back

	container atomic.Pointer[netip.AddrPort] // read by the serving goroutines
	proxy     atomic.Pointer[proxyChoice]    // nil until the first connection asks
	conns     *connSet                       // has its own lock
}

func newEntry(b portolan.Binding) *entry {
	e := &entry{binding: b, since: time.Now(), conns: &connSet{}}
	e.container.Store(&b.Container)
	return e
}

// kept reports whether e waits for its engine to come back.
func (e *entry) kept() bool { return e.grace != nil }

func (e *entry) endGrace() {
	if e.grace != nil {
		e.grace.Stop()
		e.grace = nil
	}
}

// confirm makes e active for b, which has the same key.
func (e *entry) confirm(b portolan.Binding) {
	e.endGrace()
	if e.binding == b {
		return
	}
	e.binding, e.since = b, time.Now()
	e.container.Store(&b.Container)
	e.proxy.Store(nil)
	if e.udp != nil {
		e.udp.Reset()
	}
	e.conns.hurry()
}

// close ends the listener. Its connections go on, but not for long when their
// container has gone.
func (e *entry) close() {
	e.endGrace()
	if e.listener != nil {
		_ = e.listener.Close()
		e.listener = nil
	}
	e.conns.hurry()
}

// connSet holds an entry's TCP connections, the container's side of each with the
// client's, and counts those that have ended.
type connSet struct {
	mu    sync.Mutex // guards the two below
	conns map[datapath.Conn]datapath.Conn
	ended api.Traffic
}

func (s *connSet) add(container, client datapath.Conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.conns == nil {
		s.conns = map[datapath.Conn]datapath.Conn{}
	}
	s.conns[container] = client
}

func (s *connSet) remove(container datapath.Conn, stats relay.Stats) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.conns, container)
	s.ended.Connections++
	s.ended.Received += stats.AToB
	s.ended.Sent += stats.BToA
}

// traffic is what all connections have carried until now. What those that stand
// have carried is known to the kernel alone.
func (s *connSet) traffic() api.Traffic {
	s.mu.Lock()
	defer s.mu.Unlock()
	sum := s.ended
	for _, client := range s.conns {
		received, sent := carried(client)
		sum.Connections++
		sum.Open++
		sum.Received += received
		sum.Sent += sent
	}
	return sum
}

// hurry makes the kernel find out within seconds whether the containers of the
// present connections are still there. A container that was removed sends
// nothing, and without this its connections would stay for a quarter of an hour.
func (s *connSet) hurry() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := range s.conns {
		probe(c)
	}
}

// The probes of a connection whose container may be gone: 5 s of silence, then 3
// probes 2 s apart; unacknowledged data may wait as long as that together.
const (
	probeIdle     = 5 * time.Second
	probeInterval = 2 * time.Second
	probeCount    = 3
	probeLimit    = probeIdle + probeCount*probeInterval
)
