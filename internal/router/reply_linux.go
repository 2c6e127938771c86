package router

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/portolan-net/portolan/internal/mmsg"
	"github.com/portolan-net/portolan/internal/portolan"
)

// Replies leave from wildcard sockets, one for each peer port and family; the
// source address goes with each datagram (IP_PKTINFO of ip(7)). A socket for
// each peer would cost a descriptor for each DNS server, QUIC host and so on.
const (
	// maxReplySockets bounds descriptors. Most traffic comes from a handful of
	// ports; above it the socket that was idle longest goes, and costs a new
	// one when it is needed again.
	maxReplySockets = 1024
	replyIdle       = 2 * time.Minute
	replySweep      = 30 * time.Second
)

type replyKey struct {
	port uint16
	v6   bool
}

type replySocket struct {
	mu     sync.Mutex // guards the rest; held while sending
	fd     int
	closed bool
	used   time.Time
}

// replySockets makes, finds and closes reply sockets.
type replySockets struct {
	pool *pool

	mu      sync.Mutex // guards the rest; taken before a replySocket's
	sockets map[replyKey]*replySocket
	closed  bool
}

// ReplyUDP implements datapath.Machine.
func (d *Datapath) ReplyUDP(flow portolan.Flow, payloads ...[]byte) error {
	if err := d.replies.send(flow, payloads); err != nil {
		return fmt.Errorf("reply to %s: %w", flow, err)
	}
	return nil
}

func (r *replySockets) send(flow portolan.Flow, payloads [][]byte) error {
	key := replyKey{flow.Dst.Port(), flow.Dst.Addr().Is6()}
	oob := sourceControl(flow.Dst.Addr())
	// A second time, when the socket was closed in between.
	for range 2 {
		sock, err := r.get(key)
		if err != nil {
			return err
		}
		sent, err := sock.send(payloads, oob, flow.Src)
		if sent {
			return err
		}
	}
	return errors.New("reply sockets are used up")
}

// send reports whether the socket was still open, and the first error that one
// of the datagrams met; the others are sent nevertheless.
func (s *replySocket) send(payloads [][]byte, oob []byte, to netip.AddrPort) (bool, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return false, nil
	}
	s.used = time.Now()
	var first error
	for len(payloads) > 0 {
		n, err := mmsg.Send(uintptr(s.fd), to, oob, payloads)
		if err == nil {
			break
		}
		if first == nil {
			first = err
		}
		if errors.Is(err, unix.EAGAIN) {
			break // no room for the rest either
		}
		payloads = payloads[n+1:]
	}
	return true, first
}

func (s *replySocket) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	_ = unix.Close(s.fd)
}

func (s *replySocket) lastUsed() time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.used
}

// get finds or makes the socket of a port.
func (r *replySockets) get(key replyKey) (*replySocket, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return nil, errors.New("datapath is closed")
	}
	if sock := r.sockets[key]; sock != nil {
		return sock, nil
	}
	sock, err := r.open(key)
	if err != nil {
		return nil, err
	}
	if len(r.sockets) >= maxReplySockets {
		r.dropOldestLocked()
	}
	if r.sockets == nil {
		r.sockets = map[replyKey]*replySocket{}
	}
	r.sockets[key] = sock
	return sock, nil
}

func (r *replySockets) open(key replyKey) (*replySocket, error) {
	wildcard := netip.IPv4Unspecified()
	if key.v6 {
		wildcard = netip.IPv6Unspecified()
	}
	fd, err := r.pool.get(kindFor(false, wildcard))
	if err != nil {
		return nil, err
	}
	if err := unix.Bind(fd, sockaddr(netip.AddrPortFrom(wildcard, key.port))); err != nil {
		return nil, errors.Join(fmt.Errorf("bind port %d: %w", key.port, err), unix.Close(fd))
	}
	return &replySocket{fd: fd, used: time.Now()}, nil
}

func (r *replySockets) dropOldestLocked() {
	var oldest replyKey
	var used time.Time
	for key, sock := range r.sockets {
		if at := sock.lastUsed(); used.IsZero() || at.Before(used) {
			oldest, used = key, at
		}
	}
	r.sockets[oldest].close()
	delete(r.sockets, oldest)
}

// run closes idle sockets, until ctx ends.
func (r *replySockets) run(ctx context.Context) error {
	ticker := time.NewTicker(replySweep)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case now := <-ticker.C:
			r.sweep(now.Add(-replyIdle))
		}
	}
}

// sweep closes the sockets that were last used before a time.
func (r *replySockets) sweep(before time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for key, sock := range r.sockets {
		if sock.lastUsed().Before(before) {
			sock.close()
			delete(r.sockets, key)
		}
	}
}

func (r *replySockets) close() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.closed = true
	for key, sock := range r.sockets {
		sock.close()
		delete(r.sockets, key)
	}
}

// sourceControl is the control message that sets a datagram's source address.
func sourceControl(addr netip.Addr) []byte {
	level, typ, size := unix.SOL_IP, unix.IP_PKTINFO, unix.SizeofInet4Pktinfo
	if addr.Is6() {
		level, typ, size = unix.SOL_IPV6, unix.IPV6_PKTINFO, unix.SizeofInet6Pktinfo
	}
	oob := make([]byte, unix.CmsgSpace(size))
	head := (*unix.Cmsghdr)(unsafe.Pointer(&oob[0]))
	head.Level, head.Type = int32(level), int32(typ)
	head.SetLen(unix.CmsgLen(size))
	data := oob[unix.CmsgLen(0):]
	if addr.Is6() {
		copy(data, addr.AsSlice()) // ipi6_addr, ipi6_ifindex
	} else {
		copy(data[4:], addr.AsSlice()) // ipi_ifindex, ipi_spec_dst, ipi_addr
	}
	return oob
}
