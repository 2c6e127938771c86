package relay

import (
	"container/list"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/portolan-net/portolan/internal/mmsg"
	"github.com/portolan-net/portolan/internal/scarce"
	"github.com/portolan-net/portolan/internal/system"
)

// Theory of operation
//
// An association is one host socket for one source (a container's address and
// port) and one family of the far side. Every peer sees the source as the same
// host port (RFC 4787, endpoint-independent mapping), so STUN and QUIC work. A
// datagram from outside passes only when the source has sent to its address
// before (RFC 4787, address-dependent filtering): a port that nobody published
// stays closed to strangers. Since all that speak to the host's loopback know its
// address, datagrams to loopback ports of other associations are refused.
//
//	state      begins                               ends after being idle for
//	fresh      first datagram of the source         Idle
//	stream     an answer came, and the association  StreamIdle
//	           is in use 2 s after it began
//
// Linux's connection tracking makes the same difference in the same way: a DNS
// query and its answer are soon forgotten, a call or a tunnel is not. At a bound,
// of the table or of a source's share of it, the association that has been idle
// longest goes first; see udp_table.go.
const (
	// defaultIdle is nf_conntrack_udp_timeout.
	defaultIdle = 30 * time.Second
	// defaultStreamIdle is what RFC 4787, REQ-5 recommends.
	defaultStreamIdle = 5 * time.Minute
	// streamAfter is conntrack's, too.
	streamAfter = 2 * time.Second
	// udpBuffer asks for more than the usual 208 KiB, of which three of the
	// largest datagrams fit. The kernel lowers it to net.core.{r,w}mem_max.
	udpBuffer = 1 << 20
)

// UDPConfig says where datagrams go and when associations end. Zero values of
// the numbers stand for the defaults.
type UDPConfig struct {
	// Reply takes datagrams that peer sent to source, at least one. It must not
	// keep payloads.
	Reply func(source, peer netip.AddrPort, payloads ...[]byte)
	// Refused takes an ICMP error about a datagram of source to peer; payload is
	// as much of that datagram as the error quotes. It must not keep payload. It
	// may be called by Send, too.
	Refused func(source, peer netip.AddrPort, payload []byte, reason error)

	// Offload says whether datagrams are joined; nil never does.
	Offload *mmsg.Offload

	// Ports chooses the host's ports of associations; nil leaves it to the kernel.
	Ports *system.Outgoing

	// Network returns the network of a container's address, whose containers share
	// a part of the table. Nil, or an invalid prefix: there is none.
	Network func(source netip.Addr) netip.Prefix

	Max        int           // associations, at least 1; default: what descriptors allow
	Idle       time.Duration // of a fresh association
	StreamIdle time.Duration // of a stream
	Log        *slog.Logger
}

// UDP is the table of associations. Its methods are safe for concurrent use.
type UDP struct {
	cfg     UDPConfig
	running sync.WaitGroup // one for each open socket, and the janitor
	done    chan struct{}  // closed by Close
	short   scarce.Seldom
	filled  chan struct{} // tells the janitor that the table is no longer empty

	mu     sync.Mutex
	table  map[udpKey]*association     // guarded by mu; nil after Close
	own    map[udpPort]struct{}        // guarded by mu; the ports of all in table
	fresh  *list.List                  // guarded by mu; *association, longest idle first
	stream *list.List                  // guarded by mu; the same
	shares map[netip.Prefix]*list.List // guarded by mu; the same, of one source or network
	peers  int                         // guarded by mu; addresses that all in table remember
}

// udpKey names an association.
type udpKey struct {
	source netip.AddrPort
	six    bool // the far side's family; a source may use both for the host
}

// udpPort is the host's port of an association.
type udpPort struct {
	port uint16
	six  bool
}

// association is one host socket.
type association struct {
	key    udpKey
	socket *udpSocket
	began  time.Time
	ended  atomic.Bool

	// Guarded by UDP.mu.
	last     time.Time
	answered bool
	in       *list.List    // fresh or stream
	place    *list.Element // in that list
	shares   []shareOf
	peers    map[netip.Addr]struct{}
}

// NewUDP returns an empty table. Close ends it.
func NewUDP(cfg UDPConfig) *UDP {
	if cfg.Max <= 0 {
		cfg.Max = defaultMax()
	}
	if cfg.Idle <= 0 {
		cfg.Idle = defaultIdle
	}
	if cfg.StreamIdle <= 0 {
		cfg.StreamIdle = defaultStreamIdle
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	u := &UDP{
		cfg:    cfg,
		done:   make(chan struct{}),
		filled: make(chan struct{}, 1),
		table:  make(map[udpKey]*association),
		own:    make(map[udpPort]struct{}),
		fresh:  list.New(),
		stream: list.New(),
		shares: make(map[netip.Prefix]*list.List),
	}
	u.running.Go(u.expireAll)
	return u
}

// Close ends every association and returns when nothing of the table runs.
// It must not be called from Reply or Refused.
func (u *UDP) Close() error {
	u.mu.Lock()
	open := u.table
	u.table = nil
	u.mu.Unlock()
	if open == nil {
		return nil
	}
	close(u.done)
	for _, a := range open {
		a.end()
	}
	u.running.Wait()
	return nil
}

// Len returns the number of associations.
func (u *UDP) Len() int {
	u.mu.Lock()
	defer u.mu.Unlock()
	return len(u.table)
}

// Send sends payloads from source's host socket to peer, which may differ from
// the address that the machine used. It does not block: a datagram that the
// kernel has no room for is lost. The error is the first of what the host's
// kernel says about these datagrams; errors that arrive later go to Refused.
func (u *UDP) Send(source, peer netip.AddrPort, payloads ...[]byte) error {
	for range 2 {
		a, err := u.obtain(source, peer)
		switch {
		case scarce.Exhausted(err):
			if u.short.Now() {
				u.cfg.Log.Warn("datagrams are lost: this computer is short of what a socket needs", "source", source, "error", err)
			}
			return nil
		case err != nil:
			return err
		}
		err = u.send(a, peer, payloads)
		if !errors.Is(err, net.ErrClosed) {
			return err
		}
		// It ended between the two calls: once more with a new one.
	}
	return nil
}

// obtain returns the association for source and peer, made if need be, and
// counts the datagram that is about to be sent.
func (u *UDP) obtain(source, peer netip.AddrPort) (*association, error) {
	key := udpKey{source: source, six: peer.Addr().Is6()}
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.table == nil {
		return nil, net.ErrClosed
	}
	if _, own := u.own[udpPort{peer.Port(), key.six}]; own && peer.Addr().IsLoopback() {
		return nil, fmt.Errorf("send to %s: a container's own socket: %w", peer, syscall.ECONNREFUSED)
	}
	a := u.table[key]
	if a == nil {
		var err error
		if a, err = u.addLocked(key); err != nil {
			return nil, err
		}
	}
	u.rememberLocked(a, peer.Addr())
	u.touchLocked(a, time.Now())
	return a, nil
}

// addLocked makes room if need be, and opens a socket that is read. When the host has none left it makes room for the next datagram; this one is lost.
func (u *UDP) addLocked(key udpKey) (*association, error) {
	u.makeRoomLocked(key.source.Addr())
	opened, err := listenUDP(key.six, u.cfg.Ports)
	if scarce.Exhausted(err) && len(u.table) > 0 {
		u.endLocked(u.oldestLocked())
	}
	if err != nil {
		return nil, err
	}
	now := time.Now()
	a := &association{key: key, socket: opened, began: now, last: now, in: u.fresh}
	u.running.Add(1)
	if err := opened.start(u, a); err != nil {
		u.running.Done()
		return nil, err
	}
	a.place = u.fresh.PushBack(a)
	u.joinLocked(a)
	u.own[a.port()] = struct{}{}
	if u.table[key] = a; len(u.table) == 1 {
		select {
		case u.filled <- struct{}{}:
		default:
		}
	}
	return a, nil
}

// touchLocked notes that a was used, and moves it to the end of its list.
func (u *UDP) touchLocked(a *association, now time.Time) {
	a.last = now
	for _, s := range a.shares {
		s.of.MoveToBack(s.place)
	}
	if a.in == u.fresh && a.answered && now.Sub(a.began) >= streamAfter {
		u.fresh.Remove(a.place)
		a.in, a.place = u.stream, u.stream.PushBack(a)
		return
	}
	a.in.MoveToBack(a.place)
}

// endLocked takes a out of the table.
func (u *UDP) endLocked(a *association) {
	a.in.Remove(a.place)
	delete(u.table, a.key)
	delete(u.own, a.port())
	u.peers -= len(a.peers)
	u.leaveLocked(a)
	a.end()
}

// port is the host's port of a.
func (a *association) port() udpPort { return udpPort{a.socket.port, a.key.six} }

// end makes whoever reads the socket close it. Closing it here could wait for a
// reader that waits for the table's lock, or for its own callback.
func (a *association) end() {
	a.ended.Store(true)
	a.socket.stop()
}

// arrived tells whether a datagram from peer may pass to a's source.
func (u *UDP) arrived(a *association, peer netip.Addr) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	if _, known := a.peers[peer]; !known || a.ended.Load() {
		return false
	}
	a.answered = true
	u.touchLocked(a, time.Now())
	return true
}

// expireAll ends associations as they become idle, until Close.
func (u *UDP) expireAll() {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-u.done:
			return
		case <-timer.C:
		case <-u.filled:
		}
		if wait := u.expire(time.Now()); wait > 0 {
			timer.Reset(wait)
		}
	}
}

// expire ends what has been idle for too long and returns the time until the
// next can be; 0 means that the table is empty.
func (u *UDP) expire(now time.Time) time.Duration {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.table == nil {
		return 0
	}
	var next time.Duration
	for in, idle := range map[*list.List]time.Duration{u.fresh: u.cfg.Idle, u.stream: u.cfg.StreamIdle} {
		a := front(in)
		for ; a != nil && now.Sub(a.last) >= idle; a = front(in) {
			u.endLocked(a)
		}
		if a == nil {
			continue
		}
		if left := a.last.Add(idle).Sub(now); next == 0 || left < next {
			next = left
		}
	}
	return next
}
