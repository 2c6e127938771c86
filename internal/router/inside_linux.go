package router

import (
	"fmt"
	"net/netip"
	"slices"

	"golang.org/x/sys/unix"
)

// errInside refuses flows from the machine to its own networks. They go astray,
// or come from a container on macvlan, which knows no other gateway than the
// router: a host that is connected would carry them back in, as its own.
var errInside = fmt.Errorf("the destination is a network of the machine itself: %w", unix.EHOSTUNREACH)

// inside reports whether an address lies in one of the machine's networks, the
// link aside.
func (d *Datapath) inside(dst netip.Addr) bool {
	sources := d.sources.Load()
	if sources == nil || d.link.Contains(dst) {
		return false
	}
	return slices.ContainsFunc(*sources, func(p netip.Prefix) bool { return p.Contains(dst) })
}
