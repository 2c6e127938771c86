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
	away func(wait func()) // runs wait, meanwhile without a slot
	find func(ctx context.Context, to Destination) verdict

	ctx  context.Context // of the decision under way, for what the script looks up; nil at the top level, which looks up nothing
	line int             // the last return of FindProxyForURL
}

// entryPoint is the function that a PAC script defines.
const entryPoint = "FindProxyForURL"

// newEngine runs the script's top level, which defines its functions.
func (s *Script) newEngine() (*engine, error) {
	e := &engine{vm: goja.New(), away: func(wait func()) {
		<-s.slots
		defer func() { s.slots <- struct{}{} }()
		wait()
	}}
	e.vm.SetMaxCallStackSize(maxDepth)
	if err := e.install(s.host); err != nil {
		return nil, err
	}
	late := time.NewTimer(scriptTime)
	defer late.Stop()
	ended, stopped := make(chan struct{}), make(chan struct{})
	heap := watchHeap(scriptHeap)
	defer heap.stop()
	go func() {
		defer close(stopped)
		select {
		case <-ended:
		case <-late.C:
			e.vm.Interrupt(errHangs)
		case <-heap.full:
			e.vm.Interrupt(errFills)
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
	if interrupted, ok := errors.AsType[*goja.InterruptedError](err); ok {
		if reason, ok := interrupted.Value().(error); ok {
			return reason
		}
	}
	if _, ok := errors.AsType[*goja.StackOverflowError](err); ok {
		return fmt.Errorf("more than %d calls within each other", maxDepth)
	}
	return errors.New(printable(err.Error()))
}

// heapWatch tells when the process's heap has grown too much.
type heapWatch struct {
	full  chan struct{} // closed then
	ended chan struct{}
	quit  chan struct{}
}

// heapEvery is how often it looks. Most decisions end before the first time.
const heapEvery = 10 * time.Millisecond

func watchHeap(limit uint64) *heapWatch {
	w := &heapWatch{full: make(chan struct{}), ended: make(chan struct{}), quit: make(chan struct{})}
	go func() {
		defer close(w.ended)
		ticks := time.NewTicker(heapEvery)
		defer ticks.Stop()
		first := heapBytes()
		for {
			select {
			case <-w.quit:
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
	close(w.quit)
	<-w.ended
}

// heapBytes is what lives on the heap, and what is not cleared away yet.
func heapBytes() uint64 {
	sample := []metrics.Sample{{Name: "/memory/classes/heap/objects:bytes"}}
	metrics.Read(sample)
	return sample[0].Value.Uint64()
}
