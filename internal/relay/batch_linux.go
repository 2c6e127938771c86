package relay

import (
	"runtime"
	"sync"

	"github.com/portolan-net/portolan/internal/mmsg"
)

const (
	// maxBatch datagrams are taken by one system call.
	maxBatch = 16
	// maxBatches bounds the memory on computers with many cores: a batch that has
	// seen nothing but the largest datagrams has 1 MiB.
	maxBatches = 8
)

// batches lends memory to the associations that have something to read.
var batches batchPool

// batchPool is a bounded set of batches, as many as cores may read at a time.
// Above it, readers take one datagram at a time. They are kept: most of a batch
// is memory that was never touched, and a new one would have to be cleared.
type batchPool struct {
	single sync.Pool // *mmsg.Batch of one slot

	mu   sync.Mutex
	idle []*mmsg.Batch // guarded by mu
	made int           // guarded by mu
}

func (p *batchPool) get() *mmsg.Batch {
	if b := p.take(); b != nil {
		return b
	}
	if b, ok := p.single.Get().(*mmsg.Batch); ok {
		return b
	}
	return mmsg.NewBatch(1, bufferSize, 0)
}

// take returns a whole batch, or nil.
func (p *batchPool) take() *mmsg.Batch {
	p.mu.Lock()
	defer p.mu.Unlock()
	if n := len(p.idle); n > 0 {
		b := p.idle[n-1]
		p.idle = p.idle[:n-1]
		return b
	}
	if p.made >= min(maxBatches, runtime.GOMAXPROCS(0)) {
		return nil
	}
	p.made++
	return mmsg.NewBatch(maxBatch, bufferSize, 0)
}

func (p *batchPool) put(b *mmsg.Batch) {
	if b.Slots() == 1 {
		p.single.Put(b)
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.idle = append(p.idle, b)
}
