package proxy

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"time"

	"github.com/dop251/goja"
)

// The bounds of a PAC script. What goes beyond is an error, and an error denies.
const (
	maxScript   = 1 << 20         // bytes of its text; large companies have some 300 KB
	scriptTime  = 5 * time.Second // one decision, with the names that it looks up
	lookupTime  = 2 * time.Second // one name
	graceTime   = 500 * time.Millisecond
	scriptHeap  = 128 << 20 // how much the process's heap may grow during a decision
	maxDepth    = 512       // calls within calls
	maxEngines  = 4         // decisions that run at a time
	maxWaiting  = 64        // decisions at a time, with those that wait for names
	maxSequence = 1 << 20   // elements of an array, characters of a text, see guards
	maxResult   = 4 << 10   // characters of what it returns
)

// Script is a PAC script. Find may be called from several goroutines.
//
// # Theory of operation
//
// The text is compiled once. A decision takes one of at most maxEngines engines,
// makes one where none is idle, and runs FindProxyForURL in a goroutine. While a
// name is looked up the slot is another's: who asks for names that nobody answers
// for must not stop all others. An
// engine can be interrupted between instructions, not within a built-in function:
// guards (guards.go) keep those short. Where one goes on for graceTime
// nevertheless, the decision ends with an error and the engine is given up; its
// slot comes back when it ends.
type Script struct {
	source  string
	text    []string // lines
	program *goja.Program
	err     error // why there is none
	host    Host

	under chan struct{} // one for each decision under way
	slots chan struct{} // one for each that runs
	mu    sync.Mutex    // guards idle
	idle  []*engine
}

// Host is what a PAC script may ask of its host.
type Host struct {
	Lookup func(ctx context.Context, name string) ([]netip.Addr, error)
	// Address is the host's own address for the way out.
	Address func() (netip.Addr, error)
	Now     func() time.Time
}

// NewScript compiles a PAC script. source says where it comes from. A script
// that is wrong is one, too: Find returns the reason, so that nothing is reached.
func NewScript(source, text string, host Host) *Script {
	s := &Script{source: source, text: strings.Split(text, "\n"), host: host, slots: make(chan struct{}, maxEngines), under: make(chan struct{}, maxWaiting)}
	if len(text) > maxScript {
		s.err = fmt.Errorf("%d bytes, want at most %d", len(text), maxScript)
		return s
	}
	s.program, s.err = compileScript(source, strings.TrimPrefix(text, "\ufeff"))
	if s.err == nil {
		var e *engine
		if e, s.err = s.newEngine(); s.err == nil {
			s.idle = append(s.idle, e)
		}
	}
	return s
}

// FailedScript stands for a script that could not be loaded.
func FailedScript(source string, err error) *Script { return &Script{source: source, err: err} }

// Source says where the script comes from.
func (s *Script) Source() string { return s.source }

// Err says why the script denies everything; nil for one that can be run.
func (s *Script) Err() error {
	if s == nil || s.err == nil {
		return nil
	}
	return &PACError{Source: s.source, Err: s.err}
}

// Find asks the script for the ways to a destination, and says which line it
// returned from. Errors are *PACError.
func (s *Script) Find(ctx context.Context, to Destination) (routes []Route, rule string, err error) {
	if s.err != nil {
		return nil, "", s.Err()
	}
	ctx, cancel := context.WithTimeout(ctx, scriptTime)
	defer cancel()
	text, line, err := s.run(ctx, to)
	if err == nil {
		routes, err = ParseResult(text)
	}
	if err != nil {
		return nil, "", &PACError{Source: s.source, Err: err}
	}
	rule = fmt.Sprintf("returned %q", text)
	if line > 0 && line <= len(s.text) {
		rule = fmt.Sprintf("line %d: %s", line, printable(strings.TrimSpace(s.text[line-1])))
	}
	return routes, rule, nil
}

// verdict is what one run gives.
type verdict struct {
	text string
	line int
	err  error
}

// errHangs: no engine is free, or the one that ran did not stop.
var errHangs = errors.New("it does not end within " + scriptTime.String())

// errFills: it was stopped.
var errFills = fmt.Errorf("it uses more than %d MiB of memory", scriptHeap>>20)

// run runs the script on an engine, in a goroutine that may outlive it: see the
// theory of operation.
func (s *Script) run(ctx context.Context, to Destination) (string, int, error) {
	select {
	case s.under <- struct{}{}:
	case <-ctx.Done():
		return "", 0, errHangs
	}
	select {
	case s.slots <- struct{}{}:
	case <-ctx.Done():
		<-s.under
		return "", 0, errHangs
	}
	given := make(chan verdict, 1)
	e, err := s.engine()
	if err != nil {
		<-s.slots
		<-s.under
		return "", 0, err
	}
	go func() {
		defer func() { <-s.slots; <-s.under }()
		given <- e.find(ctx, to)
	}()
	heap := watchHeap(scriptHeap)
	defer heap.stop()
	select {
	case v := <-given:
		if v.err == nil { // an engine that was interrupted is not used again
			s.mu.Lock()
			defer s.mu.Unlock()
			if len(s.idle) < maxEngines {
				s.idle = append(s.idle, e)
			}
		}
		return v.text, v.line, v.err
	case <-ctx.Done():
		e.vm.Interrupt(errHangs)
	case <-heap.full:
		e.vm.Interrupt(errFills)
	}
	select {
	case v := <-given:
		return v.text, v.line, v.err
	case <-time.After(graceTime):
		return "", 0, errHangs
	}
}

// engine is an idle one, or a new one.
func (s *Script) engine() (*engine, error) {
	s.mu.Lock()
	if n := len(s.idle); n > 0 {
		defer s.mu.Unlock()
		e := s.idle[n-1]
		s.idle = s.idle[:n-1]
		return e, nil
	}
	s.mu.Unlock()
	return s.newEngine()
}
