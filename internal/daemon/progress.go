package daemon

import (
	"encoding/json"
	"io"
	"sync"
	"time"

	"github.com/portolan-net/portolan/internal/api"
)

// progress reports the steps of a start to whoever waits for it.
type progress struct {
	mu sync.Mutex // guards out
	// out is nil when nobody listens, and after finish.
	out     io.WriteCloser
	encoder *json.Encoder
}

func newProgress(out io.WriteCloser) *progress {
	if out == nil {
		return &progress{}
	}
	return &progress{out: out, encoder: json.NewEncoder(out)}
}

// step reports the beginning and the end of one step. The error of a failed
// step is reported by finish.
func (p *progress) step(name string, do func() error) error {
	p.send(api.Step{Name: name})
	start := time.Now()
	err := do()
	if err == nil {
		p.send(api.Step{Name: name, Done: true, Took: time.Since(start)})
	}
	return err
}

// finish reports the outcome of the start, once.
func (p *progress) finish(err error) {
	last := api.Step{Name: "ready", Done: err == nil}
	if err != nil {
		last.Error = err.Error()
	}
	p.send(last)
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.out != nil {
		_ = p.out.Close() // whoever listened may have gone
		p.out = nil
	}
}

func (p *progress) send(step api.Step) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.out != nil {
		_ = p.encoder.Encode(step) // as above
	}
}
