package router

import (
	"context"
	"errors"
	"log/slog"
	"strconv"
	"sync"

	"golang.org/x/sys/unix"
)

// poolSize is how many sockets of a kind wait for dials. Fetching takes one
// round trip to the helper; a batch lasts a burst of published connections.
const poolSize = 32

// pool keeps unconnected transparent sockets of the router's namespace ready.
type pool struct {
	helper *helper
	log    *slog.Logger
	ready  map[kind]chan int // the map is never written after newPool
	low    chan kind

	mu     sync.Mutex // guards closed, and puts into ready against close
	closed bool
}

func newPool(h *helper, log *slog.Logger) *pool {
	p := &pool{helper: h, log: log, ready: map[kind]chan int{}, low: make(chan kind, len(listenerKinds))}
	for _, k := range listenerKinds {
		p.ready[k] = make(chan int, poolSize)
	}
	return p
}

// fill fetches sockets of a kind up to poolSize.
func (p *pool) fill(k kind) error {
	missing := poolSize - len(p.ready[k])
	if missing <= 0 {
		return nil
	}
	fds, err := p.helper.request(wordSockets, string(k), strconv.Itoa(missing))
	if err != nil {
		return err
	}
	p.put(k, fds)
	return nil
}

func (p *pool) put(k kind, fds []int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for i, fd := range fds {
		if p.closed {
			closeAll(fds[i:])
			return
		}
		select {
		case p.ready[k] <- fd:
		default:
			_ = unix.Close(fd)
		}
	}
}

// run refills kinds that ran low, until ctx ends.
func (p *pool) run(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case k := <-p.low:
			if !p.isLow(k) {
				continue // it was asked for while the last ones were fetched
			}
			if err := p.fill(k); err != nil {
				p.log.Error("refill socket pool", "kind", k, "error", err)
			}
		}
	}
}

// isLow reports whether it is time to fetch more, in a batch that is worth a round
// trip.
func (p *pool) isLow(k kind) bool { return len(p.ready[k]) <= poolSize/2 }

// take returns a socket that is ready, if there is one.
func (p *pool) take(k kind) (int, bool) {
	if p.isLow(k) {
		select {
		case p.low <- k:
		default: // it will be asked for again
		}
	}
	select {
	case fd, ok := <-p.ready[k]:
		return fd, ok
	default:
		return -1, false
	}
}

// get returns one socket, at once when one is ready.
func (p *pool) get(k kind) (int, error) {
	if fd, ok := p.take(k); ok {
		return fd, nil
	}
	if p.isClosed() {
		return -1, errors.New("take socket of the router: datapath is closed")
	}
	fds, err := p.helper.request(wordSockets, string(k), "1")
	if err != nil {
		return -1, err
	}
	return fds[0], nil
}

func (p *pool) isClosed() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.closed
}

func (p *pool) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return
	}
	p.closed = true
	for _, k := range listenerKinds {
		close(p.ready[k])
		for fd := range p.ready[k] {
			_ = unix.Close(fd)
		}
	}
}
