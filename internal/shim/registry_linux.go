package shim

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/portolan-net/portolan/internal/portolan"
	"github.com/portolan-net/portolan/internal/publish/forward"
	"github.com/portolan-net/portolan/internal/system"
)

// Daemon is what the registry asks of the host; agentlink.Client is one. The
// text of Publish's error reaches the user.
type Daemon interface {
	Publish(ctx context.Context, b portolan.Binding) error
	Renew(ctx context.Context, b portolan.Binding) error
	Unpublish(ctx context.Context, b portolan.Binding) error
	Release(ctx context.Context, b portolan.Binding) error
	// Resync makes the daemon ask for everything anew, through Sync.
	Resync()
}

// Config is what a Registry needs, all but the first two.
type Config struct {
	Published func() // called when the engine publishes a port, or has done so
	// InMesh tells the addresses of swarm's routing mesh; it is asked for each port
	// that the engine publishes. Nobody waits for a port of the mesh: dockerd would
	// write a refusal into its log, and never ask again.
	InMesh func(netip.Addr) bool
	Daemon Daemon
	Relay  forward.RelayFunc
	Log    *slog.Logger
}

// Registry is the agent's side: it knows the shims and serves their sockets.
type Registry struct {
	cfg  Config
	wake chan struct{} // tells Sync of a binding to renew

	mu    sync.Mutex // guards the one below
	shims map[key]*record
}

// key tells bindings apart, as in package publish.
type key struct {
	proto portolan.Proto
	host  string
}

// record is one shim's binding.
type record struct {
	binding portolan.Binding

	mu     sync.Mutex // held during each call of the daemon about this binding; guards the three below
	ended  bool       // nothing more is said about it
	synced bool       // the daemon of the present watch knows it
	reason string     // why the last attempt to renew failed
}

const (
	helloLimit   = 5 * time.Second        // for the first message
	publishLimit = 5 * time.Second        // within the shim's START_LIMIT
	tellLimit    = 3 * time.Second        // within the shim's STOP_LIMIT
	renewPause   = 5 * time.Second        // until the next attempt to renew
	acceptPause  = 100 * time.Millisecond // while descriptors are short
)

// NewRegistry returns a registry without shims.
func NewRegistry(cfg Config) *Registry {
	return &Registry{cfg: cfg, wake: make(chan struct{}, 1), shims: map[key]*record{}}
}

// Serve answers shims on l until ctx ends, and closes l and all they handed over
// then. It says nothing to the daemon at its end: that sees the agent go.
func (r *Registry) Serve(ctx context.Context, l *net.UnixListener) error {
	var serving sync.WaitGroup
	defer serving.Wait()
	defer func() { _ = l.Close() }()
	stop := context.AfterFunc(ctx, func() { _ = l.Close() })
	defer stop()
	for {
		conn, err := l.AcceptUnix()
		if ctx.Err() != nil {
			if err == nil {
				_ = conn.Close() // it comes again to the next agent
			}
			return nil
		}
		if errors.Is(err, unix.EMFILE) || errors.Is(err, unix.ENFILE) {
			r.cfg.Log.Warn("accept pauses", "error", err)
			time.Sleep(acceptPause)
			continue
		}
		if err != nil {
			return fmt.Errorf("accept shim on %s: %w", l.Addr(), err)
		}
		serving.Go(func() {
			defer func() { _ = conn.Close() }()
			stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
			defer stop()
			r.serve(ctx, conn)
		})
	}
}

// serve answers one shim to its end.
func (r *Registry) serve(ctx context.Context, conn *net.UnixConn) {
	if err := checkPeer(conn); err != nil {
		r.cfg.Log.Warn("shim socket refuses a peer", "error", err)
		return
	}
	_ = conn.SetReadDeadline(time.Now().Add(helloLimit))
	hello, file, err := receive(conn)
	if err != nil {
		if !errors.Is(err, io.EOF) {
			r.cfg.Log.Warn("shim is not understood", "error", err)
		}
		return
	}
	if file != nil {
		defer func() { _ = file.Close() }()
	}
	_ = conn.SetReadDeadline(time.Time{})
	b, err := hello.binding()
	switch {
	case err != nil:
		answer(conn, err)
	case hello.verb == verbUnpublish:
		r.end(ctx, r.add(b), verbUnpublish)
		answer(conn, nil)
	default:
		if r.cfg.Published != nil {
			r.cfg.Published()
		}
		r.hold(ctx, conn, hello.verb, b, file)
	}
}

// hold publishes a binding and keeps it as long as its shim stays.
func (r *Registry) hold(ctx context.Context, conn *net.UnixConn, how verb, b portolan.Binding, file *os.File) {
	rec := r.add(b)
	local, err := serveLocal(ctx, file, b, r.cfg)
	if err == nil && how == verbPublish {
		mesh := r.cfg.InMesh != nil && r.cfg.InMesh(b.Container.Addr())
		if err = r.publish(ctx, rec); mesh {
			err = nil // Sync goes on trying
		}
		if err != nil {
			local.close()
		}
	}
	if err != nil {
		r.forget(rec)
		answer(conn, err)
		return
	}
	r.wakeSync()
	answer(conn, nil)
	asked := unpublishes(conn)
	local.close()
	switch {
	case ctx.Err() != nil: // the agent goes, the shim stays
		r.forget(rec)
	case asked:
		r.end(ctx, rec, verbUnpublish)
		answer(conn, nil)
	default:
		r.end(ctx, rec, "")
	}
}

// add makes the record of a binding. An earlier record of the same port is of a
// shim that died; nothing more is said for it.
func (r *Registry) add(b portolan.Binding) *record {
	rec := &record{binding: b}
	k := keyOf(b)
	r.mu.Lock()
	earlier := r.shims[k]
	r.shims[k] = rec
	r.mu.Unlock()
	if earlier != nil {
		earlier.mu.Lock() // waits for what is being said
		earlier.ended = true
		earlier.mu.Unlock()
	}
	return rec
}

func keyOf(b portolan.Binding) key { return key{b.Proto, b.Host.String()} }

// forget removes a record without a word.
func (r *Registry) forget(rec *record) {
	rec.mu.Lock()
	rec.ended = true
	rec.mu.Unlock()
	r.mu.Lock()
	defer r.mu.Unlock()
	if k := keyOf(rec.binding); r.shims[k] == rec {
		delete(r.shims, k)
	}
}

// publish returns what the daemon refuses. A daemon that does not answer at all is
// told by Sync: whoever uses docker waits for it, too, but containers that dockerd
// starts again by itself would stay down, since it does not try twice.
func (r *Registry) publish(ctx context.Context, rec *record) error {
	ctx, cancel := context.WithTimeout(ctx, publishLimit)
	defer cancel()
	rec.mu.Lock()
	defer rec.mu.Unlock()
	err := r.cfg.Daemon.Publish(ctx, rec.binding)
	rec.synced = err == nil
	if err != nil && errors.Is(ctx.Err(), context.DeadlineExceeded) {
		r.cfg.Log.Warn("published port waits for the daemon", "binding", rec.binding, "error", err)
		r.cfg.Daemon.Resync() // what it was asked comes before what it will be told
		return nil
	}
	return err
}

// end tells the daemon that a binding was unpublished, or else that its engine is
// gone, and forgets it.
func (r *Registry) end(ctx context.Context, rec *record, how verb) {
	defer r.forget(rec)
	rec.mu.Lock()
	defer rec.mu.Unlock()
	if rec.ended {
		return
	}
	rec.ended = true
	ctx, cancel := context.WithTimeout(ctx, tellLimit)
	defer cancel()
	tell := r.cfg.Daemon.Release
	if how == verbUnpublish {
		tell = r.cfg.Daemon.Unpublish
	}
	if err := tell(ctx, rec.binding); err != nil && !errors.Is(ctx.Err(), context.Canceled) {
		r.cfg.Log.Warn("daemon was not told that a port closed", "binding", rec.binding, "error", err)
		r.cfg.Daemon.Resync()
	}
}

func (r *Registry) wakeSync() {
	select {
	case r.wake <- struct{}{}:
	default: // it is awake
	}
}

// Sync tells a daemon that has just come of all bindings, and goes on to renew
// those that it refuses or that come from shims of an earlier agent. It returns
// when ctx ends, with the connection to that daemon.
func (r *Registry) Sync(ctx context.Context) {
	for _, rec := range r.records() {
		rec.mu.Lock()
		rec.synced = false
		rec.mu.Unlock()
	}
	for {
		failed := false
		for _, rec := range r.records() {
			failed = !r.renew(ctx, rec) || failed
		}
		var again <-chan time.Time
		if failed {
			again = time.After(renewPause)
		}
		select {
		case <-ctx.Done():
			return
		case <-r.wake:
		case <-again:
		}
	}
}

func (r *Registry) records() []*record {
	r.mu.Lock()
	defer r.mu.Unlock()
	all := make([]*record, 0, len(r.shims))
	for _, rec := range r.shims {
		all = append(all, rec)
	}
	return all
}

// renew tells of one binding, unless the daemon knows it, and reports success.
func (r *Registry) renew(ctx context.Context, rec *record) bool {
	ctx, cancel := context.WithTimeout(ctx, tellLimit)
	defer cancel()
	rec.mu.Lock()
	defer rec.mu.Unlock()
	if rec.ended || rec.synced {
		return true
	}
	err := r.cfg.Daemon.Renew(ctx, rec.binding)
	if err == nil {
		rec.synced, rec.reason = true, ""
		return true
	}
	if rec.reason != err.Error() { // once is enough
		rec.reason = err.Error()
		r.cfg.Log.Warn("published port is not on the host", "binding", rec.binding, "error", err)
	}
	return false
}

// checkPeer refuses other users than the agent's own, root of the machine.
func checkPeer(conn *net.UnixConn) error {
	uid, err := system.PeerUID(conn)
	if err != nil {
		return err
	}
	if uid != os.Geteuid() {
		return fmt.Errorf("check peer: user %d may not publish ports", uid)
	}
	return nil
}
