package portolan

import (
	"fmt"
	"net/netip"
)

// Listener is a port on which a program waits in a host's network, or in the
// machine's: a listening TCP socket, or a UDP socket that is bound and not
// connected. An unspecified address means all addresses of that family, never
// both families.
type Listener struct {
	Proto Proto          `json:"proto"`
	Addr  netip.AddrPort `json:"addr"`
	// Container is the id of the container that the program is in; "" for none,
	// or where that is not known.
	Container string `json:"container,omitempty"`
}

// String returns "tcp 0.0.0.0:80".
func (l Listener) String() string { return fmt.Sprintf("%s %s", l.Proto, l.Addr) }

// HostNetwork is what the agent tells of the machine's own network, which
// containers with `--network host` use.
type HostNetwork struct {
	Used      bool       `json:"used"`      // there are such containers
	Listeners []Listener `json:"listeners"` // theirs, sorted
}
