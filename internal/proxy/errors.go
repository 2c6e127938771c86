package proxy

import "fmt"

// UnreachableError: a proxy does not answer, or not in its protocol.
type UnreachableError struct {
	Route Route
	Err   error
}

func (e *UnreachableError) Error() string { return fmt.Sprintf("reach proxy %s: %v", e.Route, e.Err) }
func (e *UnreachableError) Unwrap() error { return e.Err }

// RefusedError: a proxy answered, and does not let us through.
type RefusedError struct {
	Route  Route
	Code   int    // the HTTP status: 403, 407, 502; of SOCKS5 the reply, 1 to 8, or 255 for a refused login
	Status string // the status line's text, or what the SOCKS5 reply means

	other bool // it wants another kind of login
}

func (e *RefusedError) Error() string {
	return fmt.Sprintf("proxy %s refused: %s", e.Route, e.Status)
}

// AuthRequired reports whether the proxy wants other credentials.
func (e *RefusedError) AuthRequired() bool { return e.Code == 407 || e.Code == 255 }

// BlockedError: the policy says no.
type BlockedError struct {
	Destination Destination
	Decision    Decision
}

func (e *BlockedError) Error() string {
	return fmt.Sprintf("%s is blocked by %s: %s", e.Destination.Address(), e.Decision.Source, e.Decision.Rule)
}

// PACError: a PAC script could not be loaded or run; nothing is reached then.
type PACError struct {
	Source string // where the script comes from
	Err    error
}

func (e *PACError) Error() string { return fmt.Sprintf("PAC script %s: %v", e.Source, e.Err) }
func (e *PACError) Unwrap() error { return e.Err }
