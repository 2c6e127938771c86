// Package system reads what the host's operating system says about itself: so
// far the name resolution files resolv.conf(5) and hosts(5). It turns them into
// immutable snapshots and follows their changes; what to do with them is up to
// the caller. Beside every reader is a fake for the tests of other packages.
//
// It resolves nothing, writes nothing and knows nothing of the machine. Packages
// of the host's side (dns, egress, the daemon) may import it; it imports none of
// them.
package system

// NameConfig is what the host's files say about names at one moment. It is
// shared between goroutines: nobody changes it, a new state is a new value.
type NameConfig struct {
	Resolver Resolver
	Hosts    Hosts
	// Network counts the changes of the host's network: what resolvers said before
	// one, and how they fared, need not be true after it.
	Network uint64
}

// NameSource tells the present NameConfig. It is cheap enough to be asked for
// every query, never nil, and safe for concurrent use. Two calls that return the
// same pointer saw the same state.
type NameSource interface {
	NameConfig() *NameConfig
}
