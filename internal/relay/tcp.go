package relay

import (
	"context"
	"sync"
	"sync/atomic"

	"github.com/portolan-net/portolan/internal/datapath"
)

// Theory of operation
//
// A TCP flow is two directions. What ends one side is shown to the other side as
// what it was:
//
//	on one side                     on the other side
//	FIN                             FIN (CloseWrite), once all before it is written
//	FIN on both                     both are closed
//	RST, time-out, any other error  RST at once; bytes under way are dropped
//	(context ends, or ResetFrom)    RST to both
//
// Backpressure needs no code: a direction reads again only when it has written
// what it had. Two sockets of the kernel are carried by a worker (worker_linux.go).
// Where one is something else, TLS to a proxy for example, each direction is a
// goroutine that copies; one that has passed a FIN on watches for an RST of the
// side it has read from.

// Stats counts the bytes that were written, each way.
type Stats struct {
	AToB int64
	BToA int64
}

// TCP carries bytes between a and b until both directions have ended or ctx
// ends, and closes both.
func TCP(ctx context.Context, a, b datapath.Conn) Stats {
	ended := make(chan Stats, 1)
	Start(ctx, a, b, func(stats Stats) { ended <- stats })
	return <-ended
}

// Start is TCP that does not wait: it calls done when the flow has ended, from
// another goroutine, which done must not hold up.
//
// Where both are sockets of the kernel (Linux: *socket.TCP, which costs least,
// *net.TCPConn or *net.UnixConn) the bytes of bulk transfers stay in the kernel,
// and a flow that is idle holds neither goroutine nor buffer nor pipe. Conns of
// package net are closed at once, and carried on another descriptor.
func Start(ctx context.Context, a, b datapath.Conn, done func(Stats)) {
	if !carryKernel(ctx, &a, &b, done) {
		go func() { done(carryCopied(ctx, a, b)) }()
	}
}

// carryCopied is TCP for connections of any kind.
func carryCopied(ctx context.Context, a, b datapath.Conn) Stats {
	f := &stream{a: side{Conn: ordinary(a)}, b: side{Conn: ordinary(b)}}
	f.running.Store(2)
	ctx, end := context.WithCancel(ctx)
	defer end()
	defer EndWith(end, OwnAddress(a), OwnAddress(b))()

	aborted := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(aborted)
		f.reset()
	})
	var stats Stats
	var other sync.WaitGroup
	other.Go(func() { stats.BToA = f.carry(&f.b, &f.a) })
	stats.AToB = f.carry(&f.a, &f.b)
	other.Wait()
	if !stop() {
		<-aborted
	}
	return stats
}

// stream is one relayed TCP flow.
type stream struct {
	a, b    side
	running atomic.Int32 // directions that no FIN has ended yet
	closing sync.Once
}

// side is one connection of a stream.
type side struct {
	datapath.Conn
	shut atomic.Bool // set before we send a FIN on it
}

// carry runs the direction from src to dst and returns the bytes written.
func (f *stream) carry(src, dst *side) int64 {
	n, err := copyBuffered(src.Conn, dst.Conn)
	if err != nil || hidesReset(src) {
		f.reset()
		return n
	}
	dst.shut.Store(true)
	if err := dst.CloseWrite(); err != nil {
		f.reset()
		return n
	}
	if f.running.Add(-1) == 0 {
		f.close()
		return n
	}
	if watch(src.Conn) {
		f.reset()
	}
	return n
}

// close ends a flow whose directions both saw their FIN.
func (f *stream) close() {
	f.closing.Do(func() {
		_ = f.a.Close() // the far ends have everything; there is nobody to tell
		_ = f.b.Close()
	})
}

// reset ends both sides with an RST.
func (f *stream) reset() {
	f.closing.Do(func() {
		datapath.Reset(f.a.Conn)
		datapath.Reset(f.b.Conn)
	})
}
