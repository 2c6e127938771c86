package forward

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"syscall"
	"time"

	"github.com/portolan-net/portolan/internal/datapath"
	"github.com/portolan-net/portolan/internal/scarce"
)

// DialTimeout bounds the dial of a destination that stays silent, so that the
// client is told. It leaves room for four SYN retransmissions (1, 3, 7, 15 s), in
// which a full accept queue recovers.
const DialTimeout = 20 * time.Second

// The pauses after an accept that failed for want of descriptors or memory.
const (
	firstPause = 5 * time.Millisecond
	lastPause  = time.Second
)

// RelayFunc moves bytes between two connections until both directions have
// ended or ctx has, closes both and calls done, as relay.Start does. It does not
// wait for the end.
type RelayFunc func(ctx context.Context, client, dest datapath.Conn, done func())

// DialFunc opens the connection to the destination for client and calls done once
// with what came of it, before it returns or later from another goroutine. It does
// not wait.
type DialFunc func(ctx context.Context, client netip.AddrPort, done func(datapath.Conn, error))

// Waiting is a DialFunc made of a dial that waits.
func Waiting(dial func(ctx context.Context, client netip.AddrPort) (datapath.Conn, error)) DialFunc {
	return func(ctx context.Context, client netip.AddrPort, done func(datapath.Conn, error)) {
		go func() { done(dial(ctx, client)) }()
	}
}

// TCP forwards the connections of one listener.
//
// The listener's kernel has accepted a client before its destination is known to
// answer; all that can be done for a client whose destination does not is to
// reset its connection.
type TCP struct {
	Listener *net.TCPListener // Serve and Close take it over
	Dial     DialFunc
	Relay    RelayFunc
	Places   *scarce.Limit // each client has one for each connection; nil: no bound
	Log      *slog.Logger

	full scarce.Seldom

	mu     sync.Mutex // guards the rest
	closed bool
	stop   func() // ends Serve's accepting and frees the port; nil before
}

// Close frees the port before it returns, and makes Serve accept no more. The
// connections go on.
func (t *TCP) Close() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return net.ErrClosed
	}
	t.closed = true
	if t.stop != nil {
		t.stop()
		return nil
	}
	return t.Listener.Close()
}

// Serve accepts until Close and returns when the last of its connections has
// ended. The end of ctx closes the listener and the connections.
func (t *TCP) Serve(ctx context.Context) error {
	var conns sync.WaitGroup
	defer conns.Wait()
	defer func() { _ = t.Close() }() // may be closed
	stop := context.AfterFunc(ctx, func() { _ = t.Close() })
	defer stop()
	err := t.accept(func(client datapath.Conn) {
		leave, ok := t.enter(client)
		if !ok {
			datapath.Reset(client)
			return
		}
		conns.Add(1)
		t.handle(ctx, client, func() {
			leave()
			conns.Done()
		})
	})
	if err != nil {
		return fmt.Errorf("accept on %s: %w", t.Listener.Addr(), err)
	}
	return nil
}

// enter takes a place for client.
func (t *TCP) enter(client datapath.Conn) (leave func(), ok bool) {
	if t.Places == nil {
		return func() {}, true
	}
	from := peer(client).Addr()
	place, ok := t.Places.Enter(holder(from))
	if !ok && t.full.Now() {
		t.Log.Warn("connections are reset: descriptors are for so many and no more",
			"client", from, "listener", t.Listener.Addr(), "connections", t.Places.Held())
	}
	return func() { t.Places.Leave(place) }, ok
}

// holder is who is said to hold the places of a client: one computer has a /64 of
// IPv6 to choose addresses from.
func holder(client netip.Addr) netip.Addr {
	if client.Is4() {
		return client
	}
	return netip.PrefixFrom(client.WithZone(""), 64).Masked().Addr()
}

// handle carries one connection to its end. It does not wait.
func (t *TCP) handle(ctx context.Context, client datapath.Conn, done func()) {
	from := peer(client)
	dialling, cancel := context.WithTimeout(ctx, DialTimeout)
	t.Dial(dialling, from, func(dest datapath.Conn, err error) {
		cancel()
		if err != nil {
			t.Log.Debug("destination does not answer", "client", from, "listener", t.Listener.Addr(), "error", err)
			datapath.Reset(client)
			done()
			return
		}
		t.Relay(ctx, client, dest, done)
	})
}

// exhausted reports whether err passes once others have given resources back.
func exhausted(err error) bool {
	return errors.Is(err, syscall.EMFILE) || errors.Is(err, syscall.ENFILE) ||
		errors.Is(err, syscall.ENOBUFS) || errors.Is(err, syscall.ENOMEM)
}

// peer is the client's address, never IPv4-mapped.
func peer(client datapath.Conn) netip.AddrPort {
	if direct, ok := client.(interface{ Remote() netip.AddrPort }); ok {
		return direct.Remote()
	}
	remote, ok := client.RemoteAddr().(*net.TCPAddr)
	if !ok {
		return netip.AddrPort{}
	}
	return unmap(remote.AddrPort())
}

func unmap(a netip.AddrPort) netip.AddrPort { return netip.AddrPortFrom(a.Addr().Unmap(), a.Port()) }
