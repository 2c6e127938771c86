package proxy

import (
	"context"
	"errors"
	"fmt"
	"runtime/metrics"
	"time"

	"github.com/dop251/goja"
)

// engine runs one script for one decision at a time.
type engine struct {
	vm   *goja.Runtime
	find func(ctx context.Context, to Destination) verdict

	ctx  context.Context // of the decision under way, for what the script looks up
	line int             // the last return of FindProxyForURL
}

// entryPoint is the function that a PAC script defines.
const entryPoint = "FindProxyForURL"

// newEngine runs the script's top level, which defines its functions.
func (s *Script) newEngine() (*engine, error) {
	e := &engine{vm: goja.New(), ctx: context.Background()}
	e.vm.SetMaxCallStackSize(maxDepth)
	if err := e.install(s.host); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), scriptTime)
	defer cancel()
	e.ctx = ctx
	ended := make(chan struct{})
	stopped := make(chan struct{})
	heap := watchHeap(ctx, scriptHeap)
	defer heap.stop()
	go func() {
		defer close(stopped)
		select {
		case <-ended:
		case <-ctx.Done():
			e.vm.Interrupt(errHangs)
		case <-heap.full:
			e.vm.Interrupt(errors.New("it uses too much memory"))
		}
	}()
	_, err := e.vm.RunProgram(s.program)
	close(ended)
	<-stopped
	if err != nil {
		return nil, runError(err)
	}
	e.vm.ClearInterrupt()
	function, ok := goja.AssertFunction(e.vm.Get(entryPoint))
	if !ok {
		return nil, fmt.Errorf("it defines no function %s", entryPoint)
	}
	e.find = func(ctx context.Context, to Destination) verdict {
		e.ctx, e.line = ctx, 0
		value, err := function(goja.Undefined(), e.vm.ToValue(to.url()), e.vm.ToValue(to.Host))
		if err != nil {
			return verdict{err: runError(err)}
		}
		return e.verdict(value)
	}
	return e, nil
}

// verdict reads what the script returned; null is the old way to say DIRECT.
func (e *engine) verdict(value goja.Value) verdict {
	switch text := value.Export().(type) {
	case nil:
		if goja.IsNull(value) {
			return verdict{text: "DIRECT", line: e.line}
		}
	case string:
		if len(text) <= maxResult {
			return verdict{text: text, line: e.line}
		}
		return verdict{err: fmt.Errorf("%s returned %d characters, want at most %d", entryPoint, len(text), maxResult)}
	}
	return verdict{err: fmt.Errorf("%s returned no text such as \"PROXY proxy.example:3128; DIRECT\"", entryPoint)}
}

// runError makes one line of what went wrong, with the place in the script.
func runError(err error) error {
	var interrupted *goja.InterruptedError
	if errors.As(err, &interrupted) {
		if reason, ok := interrupted.Value().(error); ok {
			return reason
		}
	}
	var overflow *goja.StackOverflowError
	if errors.As(err, &overflow) {
		return fmt.Errorf("more than %d calls within each other", maxDepth)
	}
	return errors.New(printable(err.Error()))
}

// heapWatch tells when the process's heap has grown too much.
type heapWatch struct {
	full  chan struct{} // closed then
	ended chan struct{}
	quit  context.CancelFunc
}

// heapEvery is how often it looks. Most decisions end before the first time.
const heapEvery = 10 * time.Millisecond

func watchHeap(ctx context.Context, limit uint64) *heapWatch {
	ctx, quit := context.WithCancel(ctx)
	w := &heapWatch{full: make(chan struct{}), ended: make(chan struct{}), quit: quit}
	go func() {
		defer close(w.ended)
		ticks := time.NewTicker(heapEvery)
		defer ticks.Stop()
		first := heapBytes()
		for {
			select {
			case <-ctx.Done():
				return
			case <-ticks.C:
				if now := heapBytes(); now > first && now-first > limit {
					close(w.full)
					return
				}
			}
		}
	}()
	return w
}

func (w *heapWatch) stop() {
	w.quit()
	<-w.ended
}

// heapBytes is what lives on the heap, and what is not cleared away yet.
func heapBytes() uint64 {
	sample := []metrics.Sample{{Name: "/memory/classes/heap/objects:bytes"}}
	metrics.Read(sample)
	return sample[0].Value.Uint64()
}
