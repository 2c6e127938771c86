package router

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"sync/atomic"
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
	maxWaiting      = 256 // sends that wait for a socket; one that has replies from more new ports at once loses some
)

type replyKey struct {
	port uint16
	v6   bool
}

type replySocket struct {
	mu     sync.Mutex // guards the rest; held while sending
	socket mmsg.Socket
	fd     int
	closed bool
	used   time.Time
}

// replySockets makes, finds and closes reply sockets.
type replySockets struct {
	pool    *pool
	offload *mmsg.Offload
	waiting atomic.Int32   // sends that wait for a socket
	later   sync.WaitGroup // the same

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
		if errors.Is(err, errNoneReady) {
			return r.sendLater(key, flow, payloads)
		}
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

// errNoneReady says that the helper has to be asked for a socket, which waits.
var errNoneReady = errors.New("no reply socket is ready")

// sendLater sends once the helper has made a socket. Above maxWaiting the datagrams
// are lost.
func (r *replySockets) sendLater(key replyKey, flow portolan.Flow, payloads [][]byte) error {
	if r.waiting.Add(1) > maxWaiting {
		r.waiting.Add(-1)
		return errNoneReady
	}
	copies := make([][]byte, len(payloads))
	for i, payload := range payloads {
		copies[i] = bytes.Clone(payload)
	}
	r.later.Go(func() {
		defer r.waiting.Add(-1)
		if err := r.fetch(key); err == nil {
			_ = r.send(flow, copies) // lost like any datagram
		}
	})
	return nil
}

// fetch waits for a socket of the helper's and makes it that of key.
func (r *replySockets) fetch(key replyKey) error {
	fd, err := r.pool.get(key.kind())
	if err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed || r.sockets[key] != nil {
		return unix.Close(fd)
	}
	_, err = r.adoptLocked(key, fd)
	return err
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
		n, err := s.socket.Send(uintptr(s.fd), to, oob, payloads)
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

// get finds or makes the socket of a port. It does not wait.
func (r *replySockets) get(key replyKey) (*replySocket, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return nil, errors.New("datapath is closed")
	}
	if sock := r.sockets[key]; sock != nil {
		return sock, nil
	}
	fd, ok := r.pool.take(key.kind())
	if !ok {
		return nil, errNoneReady
	}
	return r.adoptLocked(key, fd)
}

func (k replyKey) wildcard() netip.Addr {
	if k.v6 {
		return netip.IPv6Unspecified()
	}
	return netip.IPv4Unspecified()
}

func (k replyKey) kind() kind { return kindFor(false, k.wildcard()) }

// adoptLocked makes fd, which it closes after an error, the socket of key.
func (r *replySockets) adoptLocked(key replyKey, fd int) (*replySocket, error) {
	if err := unix.Bind(fd, sockaddr(netip.AddrPortFrom(key.wildcard(), key.port))); err != nil {
		return nil, errors.Join(fmt.Errorf("bind port %d: %w", key.port, err), unix.Close(fd))
	}
	if len(r.sockets) >= maxReplySockets {
		r.dropOldestLocked()
	}
	if r.sockets == nil {
		r.sockets = map[replyKey]*replySocket{}
	}
	sock := &replySocket{fd: fd, socket: mmsg.Socket{Offload: r.offload}, used: time.Now()}
	r.sockets[key] = sock
	return sock, nil
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

// close is called when the helper makes no more sockets.
func (r *replySockets) close() {
	r.mu.Lock()
	r.closed = true
	for key, sock := range r.sockets {
		sock.close()
		delete(r.sockets, key)
	}
	r.mu.Unlock()
	r.later.Wait()
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
