package proxy

import (
	"context"
	"errors"
	"maps"
	"net"
	"sync"
	"time"
)

// proxyMemory is what is known of proxies, by address.
type proxyMemory struct {
	mu      sync.Mutex           // guards what follows
	until   map[string]time.Time // could not be reached a moment ago: until when it comes last
	schemes map[string]string    // how it is logged in to
}

func (p *proxyMemory) scheme(address string) string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.schemes[address]
}

func (p *proxyMemory) setScheme(address, scheme string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.schemes[address] = scheme
}

// dead reports a proxy that could not be reached a moment ago.
func (p *proxyMemory) dead(address string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return time.Now().Before(p.until[address])
}

// memory is what the dialer remembers.
func (d *Dialer) memory() *proxyMemory {
	if d.known.Load() == nil {
		d.known.CompareAndSwap(nil, &proxyMemory{until: map[string]time.Time{}, schemes: map[string]string{}})
	}
	return d.known.Load()
}

// With is a dialer that dials otherwise and remembers the same.
func (d *Dialer) With(direct func(ctx context.Context, network, address string) (net.Conn, error)) *Dialer {
	other := &Dialer{Direct: direct, TLS: d.TLS}
	other.known.Store(d.memory())
	return other
}

// note remembers whether a proxy could be reached. An attempt that somebody gave
// up says nothing about it.
func (d *Dialer) note(ctx context.Context, address string, err error) {
	if errors.Is(ctx.Err(), context.Canceled) {
		return
	}
	p := d.memory()
	p.mu.Lock()
	defer p.mu.Unlock()
	if _, ok := errors.AsType[*UnreachableError](err); !ok {
		delete(p.until, address)
		return
	}
	now := time.Now()
	maps.DeleteFunc(p.until, func(_ string, until time.Time) bool { return now.After(until) })
	p.until[address] = now.Add(deadTime)
}
