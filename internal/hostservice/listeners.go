package hostservice

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"time"

	"github.com/portolan-net/portolan/internal/datapath"
)

// Listeners are the listening sockets of one side.
type Listeners struct {
	// Open makes a listener; Gone hears that one is wanted no longer and has
	// been closed.
	Open func(Endpoint) (net.Listener, error)
	Gone func(Endpoint)
	// Serve carries one connection to its end, which is also when ctx ends.
	Serve func(ctx context.Context, on Endpoint, conn datapath.Conn)
	Log   *slog.Logger

	mu   sync.Mutex // guards what follows
	open map[Endpoint]*listening
}

// listening is one listener with its connections.
type listening struct {
	net.Listener
	end  context.CancelFunc
	done sync.WaitGroup
}

// Set opens what is wanted and not open, and closes what is open and not wanted,
// with its connections. What could not be opened is told by the errors, in which
// each endpoint is named; the rest stands. Connections last as long as ctx.
func (l *Listeners) Set(ctx context.Context, want []Endpoint) map[Endpoint]error {
	l.mu.Lock()
	defer l.mu.Unlock()
	wanted := map[Endpoint]bool{}
	for _, e := range want {
		wanted[e] = true
	}
	for e, opened := range l.open {
		if !wanted[e] {
			opened.close()
			delete(l.open, e)
			l.Gone(e)
		}
	}
	failed := map[Endpoint]error{}
	for e := range wanted {
		if l.open[e] != nil {
			continue
		}
		listener, err := l.Open(e)
		if err != nil {
			failed[e] = err
			continue
		}
		if l.open == nil {
			l.open = map[Endpoint]*listening{}
		}
		l.open[e] = l.start(ctx, e, listener)
	}
	return failed
}

// Close closes all; nobody hears of it, since they may be wanted again.
func (l *Listeners) Close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, opened := range l.open {
		opened.close()
	}
	l.open = nil
}

func (o *listening) close() {
	o.end()
	_ = o.Listener.Close()
	o.done.Wait()
}

// acceptPause is how long accepting waits when descriptors or memory are short.
const acceptPause = 100 * time.Millisecond

func (l *Listeners) start(ctx context.Context, e Endpoint, listener net.Listener) *listening {
	ctx, end := context.WithCancel(ctx)
	o := &listening{Listener: listener, end: end}
	o.done.Go(func() {
		for {
			accepted, err := listener.Accept()
			switch {
			case ctx.Err() != nil || errors.Is(err, net.ErrClosed):
				if err == nil {
					_ = accepted.Close()
				}
				return
			case err != nil:
				l.Log.Warn("accept pauses", "listener", e, "err", err)
				select {
				case <-ctx.Done():
					return
				case <-time.After(acceptPause):
				}
				continue
			}
			conn, ok := accepted.(datapath.Conn)
			if !ok {
				l.Log.Error("accept", "listener", e, "err", fmt.Errorf("%T is no stream", accepted))
				_ = accepted.Close()
				continue
			}
			o.done.Go(func() { l.Serve(ctx, e, conn) })
		}
	})
	return o
}
