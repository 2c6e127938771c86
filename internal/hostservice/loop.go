package hostservice

import (
	"errors"
	"fmt"
)

// ErrLoop is what the error of a forward wraps by which a connection would come
// back to where it began, again and again, until no descriptor is left.
var ErrLoop = errors.New("connections would come back to it without end")

// checkLoop follows f through the forwards of list, from one side to the other.
func checkLoop(list []Forward, f Forward) error {
	at := f
	for range list {
		next, ok := leadsOn(list, at)
		if !ok {
			break
		}
		if at = next; at.To.reaches(f.Listen) && at.From != f.From {
			return fmt.Errorf("listen on %s and connect to %s: %w, by way of %s", f.Listen, f.To, ErrLoop, at.Listen)
		}
	}
	return nil
}

// leadsOn finds the forward whose listener is where f leads.
func leadsOn(list []Forward, f Forward) (Forward, bool) {
	for _, other := range list {
		if other.From != f.From && f.To.reaches(other.Listen) {
			return other, true
		}
	}
	return Forward{}, false
}

// reaches reports whether who connects to e meets a listener: the unspecified
// address is loopback's then.
func (e Endpoint) reaches(listener Endpoint) bool {
	to, at := e.AddrPort(), listener.AddrPort()
	if to.Addr().IsUnspecified() && at.IsValid() {
		return to.Port() == at.Port()
	}
	return e == listener
}
