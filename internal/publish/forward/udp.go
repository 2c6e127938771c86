package forward

import (
	"container/list"
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"

	"github.com/portolan-net/portolan/internal/mmsg"
	"github.com/portolan-net/portolan/internal/scarce"
)

// Theory of operation, UDP. Each pair of client (address and port) and local address
// that it spoke to is a session with a connected socket of its own to the
// destination, whose answers leave from that local address. On Linux one loop reads
// the shared socket and those of all its sessions, in batches, and writes them; only
// a dial, which may wait, has a goroutine.
//
//	state    client sends                      destination sends   ends by
//	dialing  queued, at most queueLength       -                   dial failed: forgotten
//	open     written; a refusal seen there is  sent to client      idle, eviction, Reset,
//	         the earlier datagram's: once more                     socket closed
//
// A refusal ends nothing: the session is as good when the destination listens
// again. At MaxSessions, and when all Places are taken, the session whose client was
// silent longest goes. A client that has as many Places as it may gets no more.

const (
	// DefaultIdle is the life of a session in which neither side sends; moby's
	// docker-proxy has the same (cmd/docker-proxy/udp_proxy_linux.go).
	DefaultIdle = 90 * time.Second
	// DefaultMaxSessions bounds the sockets of one binding.
	// Each has a descriptor; a usual hard limit is 20,000, and at the limit the
	// oldest session goes too.
	DefaultMaxSessions = 12_000

	maxDatagram = 65535
	queueLength = 16 // datagrams that wait for a dial
	expiries    = 16 // looks for silent sessions in the time that one may be silent
	// receiveBuffer is asked for on the shared socket; the kernel gives less
	// where net.core.rmem_max says so.
	receiveBuffer = 4 << 20
)

// UDP forwards the datagrams of one socket.
type UDP struct {
	Conn *net.UDPConn // Serve and Close take it over
	// Dial returns a connected socket to the destination for client.
	Dial        func(ctx context.Context, client netip.AddrPort) (net.Conn, error)
	Idle        time.Duration // 0 means DefaultIdle
	MaxSessions int           // 0 means DefaultMaxSessions
	Places      *scarce.Limit // each client has one for each session; nil: no bound
	Offload     *mmsg.Offload // says whether datagrams are joined; nil never does
	Log         *slog.Logger

	full scarce.Seldom

	received, sent atomic.Int64 // bytes from and to clients

	running sync.WaitGroup // dials and open sessions

	mu       sync.Mutex // guards the rest, and each session's place
	closed   bool
	stop     func() // ends Serve's reading and frees the port; nil before
	sessions map[sessionKey]*session
	opened   int64
	order    *list.List  // of *session, the client silent longest first
	expiry   *time.Timer // runs while there are sessions
	shared   *shared     // nil before Serve
}

type sessionKey struct {
	client netip.AddrPort
	local  netip.Addr // what the client spoke to; the zero Addr when unknown
	index  int        // interface, for link-local addresses; else 0
}

// Close frees the port before it returns and makes Serve end.
func (u *UDP) Close() error {
	u.mu.Lock()
	stop, closed := u.stop, u.closed
	u.closed = true
	u.mu.Unlock()
	switch {
	case closed:
		return net.ErrClosed
	case stop == nil:
		return u.Conn.Close()
	}
	stop()
	return nil
}

// Serve forwards until Close or the end of ctx, then closes the sessions and
// returns.
func (u *UDP) Serve(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer u.running.Wait()
	defer u.Reset()
	defer cancel()
	defer func() { _ = u.Close() }() // may be closed
	end := context.AfterFunc(ctx, func() { _ = u.Close() })
	defer end()
	if err := u.prepare(); err != nil {
		return err
	}
	return u.receive(ctx)
}

// prepare asks the kernel for the address each datagram was sent to.
func (u *UDP) prepare() error {
	_ = u.Conn.SetReadBuffer(receiveBuffer) // smaller is slower, not wrong
	if u.four() {
		if err := ipv4.NewPacketConn(u.Conn).SetControlMessage(ipv4.FlagDst, true); err != nil {
			return fmt.Errorf("set IP_PKTINFO on %s: %w", u.Conn.LocalAddr(), err)
		}
		return nil
	}
	if err := ipv6.NewPacketConn(u.Conn).SetControlMessage(ipv6.FlagDst|ipv6.FlagInterface, true); err != nil {
		return fmt.Errorf("set IPV6_RECVPKTINFO on %s: %w", u.Conn.LocalAddr(), err)
	}
	return nil
}

// four reports whether the shared socket is one of IPv4.
func (u *UDP) four() bool {
	local, ok := u.Conn.LocalAddr().(*net.UDPAddr)
	return ok && local.IP.To4() != nil
}

// keyOf leaves the address out where nothing can be sent from it. A broadcast
// address is found out by the send that fails.
func keyOf(dst netip.Addr, index int) sessionKey {
	local := dst.Unmap()
	if !local.IsValid() || local.IsMulticast() || local.IsUnspecified() {
		return sessionKey{}
	}
	if !local.IsLinkLocalUnicast() {
		index = 0
	}
	return sessionKey{local: local, index: index}
}

// controlMessage makes replies leave from the key's local address.
func (k sessionKey) controlMessage() []byte {
	switch {
	case !k.local.IsValid():
		return nil
	case k.local.Is4():
		return (&ipv4.ControlMessage{Src: k.local.AsSlice(), IfIndex: k.index}).Marshal()
	}
	return (&ipv6.ControlMessage{Src: k.local.AsSlice(), IfIndex: k.index}).Marshal()
}

// deliver gives datagrams to their session, a new one if need be.
func (u *UDP) deliver(ctx context.Context, key sessionKey, payloads ...[]byte) {
	u.mu.Lock()
	s, known := u.sessions[key]
	if known {
		u.order.MoveToBack(s.place)
	} else {
		var cancel context.CancelFunc
		ctx, cancel = context.WithCancel(ctx)
		s = u.addLocked(key, cancel)
	}
	u.mu.Unlock()
	if s == nil {
		u.tellFull(key)
		return
	}
	u.received.Add(total(payloads))
	s.touch()
	s.send(payloads)
	if !known {
		u.running.Go(func() { u.begin(ctx, s) })
	}
}

func total(payloads [][]byte) (n int64) {
	for _, payload := range payloads {
		n += int64(len(payload))
	}
	return n
}

// tellFull says that a datagram was lost for want of a place.
func (u *UDP) tellFull(key sessionKey) {
	if u.full.Now() {
		u.Log.Warn("datagrams of new clients are lost: descriptors are for so many and no more",
			"client", key.client, "listener", u.Conn.LocalAddr(), "sessions", u.Places.Held())
	}
}

// addLocked returns nil, and calls cancel, when there is no place.
func (u *UDP) addLocked(key sessionKey, cancel context.CancelFunc) *session {
	if u.sessions == nil {
		u.sessions, u.order = map[sessionKey]*session{}, list.New()
	}
	among, ok := u.enterLocked(key.client.Addr())
	if !ok {
		cancel()
		return nil
	}
	limit := u.MaxSessions
	if limit == 0 {
		limit = DefaultMaxSessions
	}
	for len(u.sessions) >= limit {
		u.dropLocked(u.order.Front().Value.(*session))
	}
	s := &session{key: key, oob: key.controlMessage(), cancel: cancel, among: among}
	s.place = u.order.PushBack(s)
	if len(u.sessions) == 0 {
		u.expireAfterLocked(u.idle())
	}
	u.sessions[key] = s
	u.opened++
	return s
}

func (u *UDP) idle() time.Duration {
	if u.Idle == 0 {
		return DefaultIdle
	}
	return u.Idle
}

func (u *UDP) expireAfterLocked(d time.Duration) {
	if u.expiry == nil {
		u.expiry = time.AfterFunc(d, u.expire)
		return
	}
	u.expiry.Reset(d)
}

// expire ends the sessions in which both sides were silent for too long, and comes
// again while there are others.
func (u *UDP) expire() {
	u.mu.Lock()
	defer u.mu.Unlock()
	next := u.idle()
	for _, s := range u.sessions {
		if left := u.idle() - s.silent(); left > 0 {
			next = min(next, left)
			continue
		}
		u.dropLocked(s)
	}
	if len(u.sessions) > 0 {
		u.expireAfterLocked(max(next, u.idle()/expiries))
	}
}

// enterLocked takes a place for client, that of another session if need be.
func (u *UDP) enterLocked(client netip.Addr) (scarce.Place, bool) {
	if u.Places == nil {
		return scarce.Place{}, true
	}
	client = holder(client)
	for {
		place, ok := u.Places.Enter(client)
		if ok {
			return place, true
		}
		if u.Places.Crowded(client) || u.order.Len() == 0 {
			return place, false
		}
		u.dropLocked(u.order.Front().Value.(*session))
	}
}

// Traffic is what a UDP has carried: sessions, those that stand, and bytes.
type Traffic struct{ Sessions, Open, Received, Sent int64 }

// Traffic counts since the socket was made.
func (u *UDP) Traffic() Traffic {
	u.mu.Lock()
	defer u.mu.Unlock()
	return Traffic{u.opened, int64(len(u.sessions)), u.received.Load(), u.sent.Load()}
}

// Reset ends every session; the next datagram of a client dials anew. It is
// called when the destination has changed.
func (u *UDP) Reset() {
	u.mu.Lock()
	defer u.mu.Unlock()
	for _, s := range u.sessions {
		u.dropLocked(s)
	}
}

// drop forgets s. It may be called again.
func (u *UDP) drop(s *session) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.dropLocked(s)
}

func (u *UDP) dropLocked(s *session) {
	if u.sessions[s.key] == s {
		delete(u.sessions, s.key)
		u.order.Remove(s.place)
		if u.Places != nil {
			u.Places.Leave(s.among)
		}
	}
	s.close()
}

// dropOldest makes room for other; false when there is nothing to drop.
func (u *UDP) dropOldest(other *session) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	for e := u.order.Front(); e != nil; e = e.Next() {
		if s := e.Value.(*session); s != other {
			u.dropLocked(s)
			return true
		}
	}
	return false
}
