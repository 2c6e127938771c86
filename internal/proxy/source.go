package proxy

import "sync"

// Source holds the two policies in force. It is safe for concurrent use.
type Source struct {
	mu                 sync.Mutex // guards all below
	engine, containers *Policy
	changed            chan struct{}
}

// NewSource returns a source of two policies.
func NewSource(engine, containers *Policy) *Source {
	return &Source{engine: engine, containers: containers, changed: make(chan struct{})}
}

// Engine is the policy for what the engine itself reaches: pulls, pushes, logins.
func (s *Source) Engine() *Policy {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.engine
}

// Containers is the policy for what containers and build steps reach.
func (s *Source) Containers() *Policy {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.containers
}

// Changed is closed when either policy is replaced after this call. Ask for it
// before the policies, and again after each change.
func (s *Source) Changed() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.changed
}

// Set replaces both.
func (s *Source) Set(engine, containers *Policy) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.engine, s.containers = engine, containers
	close(s.changed)
	s.changed = make(chan struct{})
}
