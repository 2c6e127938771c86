package relay

import (
	"errors"
	"log/slog"
	"net/netip"
	"sync"
	"syscall"
	"time"

	"github.com/portolan-net/portolan/internal/portolan"
)

// Theory of operation
//
// One socket for each family sends the echo requests of all flows. The kernel
// gives it an identifier of its own, so requests are told apart by sequence
// numbers of ours, handed out one after the other; the table says whose number
// that was. A request stays in the table until it is too old or pushed out, not
// until it is answered: duplicate replies pass, as they would through a router.
const (
	// echoWait is longer than any round trip, and than ping's own patience.
	echoWait = 30 * time.Second
	// maxEchoes bounds the requests under way in one family. Flooding pings lose
	// their oldest first.
	maxEchoes = 8192
	// warnEvery keeps a ping that runs all day from filling the log.
	warnEvery = time.Minute
)

// EchoConfig says where the answers to echo requests go.
type EchoConfig struct {
	// Reply takes an echo reply. It must not keep payload.
	Reply func(flow portolan.Flow, seq uint16, payload []byte)
	// Refused takes an ICMP error about a request; payload is as much of it as
	// the error quotes. It must not keep payload.
	Refused func(flow portolan.Flow, seq uint16, payload []byte, reason error)
	Log     *slog.Logger
}

// Echo sends ICMP and ICMPv6 echo requests through the host's ping sockets (or
// raw ones, where only those are allowed). It is safe for concurrent use.
type Echo struct {
	cfg     EchoConfig
	readers sync.WaitGroup

	mu     sync.Mutex
	closed bool                 // guarded by mu
	warned time.Time            // guarded by mu
	six    map[bool]*echoFamily // guarded by mu; IPv6?
}

// echoFamily is an open socket and what was sent through it.
type echoFamily struct {
	socket *pingSocket
	table  echoTable
}

// NewEcho returns an Echo that has opened nothing yet. Close ends it.
func NewEcho(cfg EchoConfig) *Echo {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	return &Echo{cfg: cfg, six: make(map[bool]*echoFamily)}
}

// Close closes the sockets and returns when nothing of e runs. It must not be
// called from Reply or Refused.
func (e *Echo) Close() error {
	e.mu.Lock()
	e.closed = true
	open := e.six
	e.six = make(map[bool]*echoFamily)
	e.mu.Unlock()
	for _, family := range open {
		family.socket.close()
	}
	e.readers.Wait()
	return nil
}

// Send sends one echo request to flow.Dst. It does not block: a request that
// the kernel has no room for is lost. An error is what the host's kernel says
// about this request; EACCES means that the host forbids ping.
func (e *Echo) Send(flow portolan.Flow, seq uint16, payload []byte) error {
	family, err := e.obtain(flow.Dst.Addr().Is6())
	if err != nil {
		return err
	}
	number := family.table.add(echoRequest{flow: flow, seq: seq, sent: time.Now()})
	return family.socket.send(flow.Dst.Addr(), number, payload)
}

// obtain returns the family's socket, opened if need be. A refusal is not
// remembered: the user may lift it at any time.
func (e *Echo) obtain(six bool) (*echoFamily, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if family := e.six[six]; family != nil {
		return family, nil
	}
	if e.closed {
		return nil, syscall.ENETDOWN
	}
	socket, err := openPing(six)
	if errors.Is(err, syscall.EACCES) {
		e.warnLocked(err)
	}
	if err != nil {
		return nil, err
	}
	family := &echoFamily{socket: socket, table: echoTable{pending: make(map[uint16]echoRequest)}}
	e.six[six] = family
	e.readers.Go(func() { socket.read(echoReader{echo: e, table: &family.table}) })
	return family, nil
}

func (e *Echo) warnLocked(err error) {
	if now := time.Now(); e.warned.IsZero() || now.Sub(e.warned) >= warnEvery {
		e.warned = now
		e.cfg.Log.Warn("the host forbids ping, so containers can't ping either",
			"error", err, "remedy", `sysctl -w net.ipv4.ping_group_range="0 2147483647"`)
	}
}

// echoReader takes what a ping socket receives.
type echoReader struct {
	echo  *Echo
	table *echoTable
}

// reply passes on the reply with our number, when it comes from whom we asked.
func (r echoReader) reply(from netip.Addr, number uint16, payload []byte) {
	if asked, ok := r.table.find(number, from, time.Now()); ok {
		r.echo.cfg.Reply(asked.flow, asked.seq, payload)
	}
}

// refused passes on an error about the request to that we sent with number.
func (r echoReader) refused(to netip.Addr, number uint16, payload []byte, reason error) {
	if asked, ok := r.table.find(number, to, time.Now()); ok {
		r.echo.cfg.Refused(asked.flow, asked.seq, payload, reason)
	}
}

// echoTable says whose request has which of our sequence numbers.
type echoTable struct {
	mu      sync.Mutex
	pending map[uint16]echoRequest // guarded by mu; the numbers from oldest up to next
	oldest  uint16                 // guarded by mu
	next    uint16                 // guarded by mu
}

// echoRequest is one request as the machine sent it.
type echoRequest struct {
	flow portolan.Flow
	seq  uint16
	sent time.Time
}

// add enters a request, forgets those that are too old or too many, and returns
// the request's number.
func (t *echoTable) add(r echoRequest) uint16 {
	t.mu.Lock()
	defer t.mu.Unlock()
	for t.oldest != t.next {
		if len(t.pending) < maxEchoes && r.sent.Sub(t.pending[t.oldest].sent) < echoWait {
			break
		}
		delete(t.pending, t.oldest)
		t.oldest++
	}
	number := t.next
	t.next++
	t.pending[number] = r
	return number
}

// find returns the request to peer that got number.
func (t *echoTable) find(number uint16, peer netip.Addr, now time.Time) (echoRequest, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	r, ok := t.pending[number]
	return r, ok && r.flow.Dst.Addr() == peer && now.Sub(r.sent) < echoWait
}
