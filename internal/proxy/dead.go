package proxy

import (
	"context"
	"errors"
	"maps"
	"net"
	"sync"
	"time"
)

// deadProxies are those that could not be reached a moment ago.
type deadProxies struct {
	mu    sync.Mutex           // guards until
	until map[string]time.Time // by address: until when it comes last
}

func (p *deadProxies) has(address string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return time.Now().Before(p.until[address])
}

// memory is what the dialer remembers.
func (d *Dialer) memory() *deadProxies {
	if d.dead.Load() == nil {
		d.dead.CompareAndSwap(nil, &deadProxies{until: map[string]time.Time{}})
	}
	return d.dead.Load()
}

// With is a dialer that dials otherwise and remembers the same.
func (d *Dialer) With(direct func(ctx context.Context, network, address string) (net.Conn, error)) *Dialer {
	other := &Dialer{Direct: direct, TLS: d.TLS}
	other.dead.Store(d.memory())
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
