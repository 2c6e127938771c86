package mmsg

import (
	"runtime"
	"sync"
)

const (
	// MaxBorrowed datagrams are taken by one system call.
	MaxBorrowed = 16
	// maxBatches bounds the memory on computers with many cores: a batch that has
	// seen nothing but the largest datagrams has 1 MiB.
	maxBatches = 8
	// lentRoom holds the largest datagram.
	lentRoom = 64 << 10
	// lentControl holds one control message with an address.
	lentControl = 64
)

// Borrow returns a Batch for datagrams of any size, until Return. Who has something
// to read borrows one, so that thousands of idle sockets need none.
func Borrow() *Batch { return batches.get() }

// Return gives a borrowed Batch back.
func Return(b *Batch) { batches.put(b) }

// batches lends memory to those who have something to read.
var batches batchPool

// batchPool is a bounded set of batches, as many as cores may read at a time.
// Above it, readers take one datagram at a time. They are kept: most of a batch
// is memory that was never touched, and a new one would have to be cleared.
type batchPool struct {
	single sync.Pool // *Batch of one slot

	mu   sync.Mutex
	idle []*Batch // guarded by mu
	made int      // guarded by mu
}

func (p *batchPool) get() *Batch {
	if b := p.take(); b != nil {
		return b
	}
	if b, ok := p.single.Get().(*Batch); ok {
		return b
	}
	return NewBatch(1, lentRoom, lentControl)
}

// take returns a whole batch, or nil.
func (p *batchPool) take() *Batch {
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
	return NewBatch(MaxBorrowed, lentRoom, lentControl)
}

func (p *batchPool) put(b *Batch) {
	if len(b.msgs) == 1 {
		p.single.Put(b)
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.idle = append(p.idle, b)
}
