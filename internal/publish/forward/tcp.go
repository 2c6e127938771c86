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
// ended or ctx has, as relay.TCP does.
type RelayFunc func(ctx context.Context, client, dest datapath.Conn)

// TCP forwards the connections of one listener.
//
// The listener's kernel has accepted a client before its destination is known to
// answer; all that can be done for a client whose destination does not is to
// reset its connection.
type TCP struct {
	Listener *net.TCPListener
	// Dial opens the connection to the destination for client.
	Dial  func(ctx context.Context, client netip.AddrPort) (datapath.Conn, error)
	Relay RelayFunc
	Log   *slog.Logger
}

// Serve accepts until the listener is closed and returns when the last of its
// connections has ended. The end of ctx closes the listener and the connections.
func (t *TCP) Serve(ctx context.Context) error {
	var conns sync.WaitGroup
	defer conns.Wait()
	defer func() { _ = t.Listener.Close() }()
	stop := context.AfterFunc(ctx, func() { _ = t.Listener.Close() })
	defer stop()
	for {
		client, err := t.accept(ctx)
		if errors.Is(err, net.ErrClosed) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("accept on %s: %w", t.Listener.Addr(), err)
		}
		conns.Go(func() { t.handle(ctx, client) })
	}
}

// accept waits for the next connection, and out the times in which the process
// or the system has no descriptors left.
func (t *TCP) accept(ctx context.Context) (datapath.Conn, error) {
	for pause := firstPause; ; pause = min(2*pause, lastPause) {
		client, err := accept(t.Listener)
		if err == nil || !exhausted(err) {
			return client, err
		}
		if pause == firstPause {
			t.Log.Warn("accept pauses", "listener", t.Listener.Addr(), "error", err)
		}
		select {
		case <-ctx.Done():
			return nil, net.ErrClosed
		case <-time.After(pause):
		}
	}
}

// exhausted reports whether err passes once others have given resources back.
func exhausted(err error) bool {
	return errors.Is(err, syscall.EMFILE) || errors.Is(err, syscall.ENFILE) ||
		errors.Is(err, syscall.ENOBUFS) || errors.Is(err, syscall.ENOMEM)
}

// handle carries one connection to its end.
func (t *TCP) handle(ctx context.Context, client datapath.Conn) {
	defer func() { _ = client.Close() }()
	from := peer(client)
	dest, err := t.dial(ctx, from)
	if err != nil {
		t.Log.Debug("destination does not answer", "client", from, "listener", t.Listener.Addr(), "error", err)
		datapath.Reset(client)
		return
	}
	defer func() { _ = dest.Close() }()
	t.Relay(ctx, client, dest)
}

func (t *TCP) dial(ctx context.Context, from netip.AddrPort) (datapath.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, DialTimeout)
	defer cancel()
	return t.Dial(ctx, from)
}

// peer is the client's address, never IPv4-mapped.
func peer(client datapath.Conn) netip.AddrPort {
	remote, ok := client.RemoteAddr().(*net.TCPAddr)
	if !ok {
		return netip.AddrPort{}
	}
	return unmap(remote.AddrPort())
}

func unmap(a netip.AddrPort) netip.AddrPort { return netip.AddrPortFrom(a.Addr().Unmap(), a.Port()) }
