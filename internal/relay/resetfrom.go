package relay

import (
	"net"
	"net/netip"
	"slices"
	"sync"
)

// ResetFrom ends every TCP flow one of whose connections has addr as its own
// address, with an RST to both sides, and all that EndWith was told of; it returns
// how many these were. It is for an address that the host has lost: the kernel would
// go on for a quarter of an hour sending what nobody can answer.
func ResetFrom(addr netip.Addr) int {
	return resetKernelFrom(addr) + others.endFrom(addr)
}

// EndWith has ResetFrom call end for what is no flow of this package, a dial say,
// and has one of these addresses as its own. End must not wait; it may be called
// until forget is.
func EndWith(end func(), own ...netip.Addr) (forget func()) {
	return others.add(&owner{own, end})
}

// OwnAddress is conn's own address; not valid where it has none.
func OwnAddress(conn net.Conn) netip.Addr {
	if tcp, ok := conn.LocalAddr().(*net.TCPAddr); ok {
		return tcp.AddrPort().Addr().Unmap()
	}
	return netip.Addr{}
}

// others are what ends with an address, but for the flows of workers.
var others = owners{all: map[*owner]struct{}{}}

// owner is one that does.
type owner struct {
	addrs []netip.Addr
	end   func()
}

type owners struct {
	mu  sync.Mutex
	all map[*owner]struct{} // guarded by mu
}

func (o *owners) add(one *owner) (remove func()) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.all[one] = struct{}{}
	return func() {
		o.mu.Lock()
		defer o.mu.Unlock()
		delete(o.all, one)
	}
}

func (o *owners) endFrom(addr netip.Addr) (n int) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for one := range o.all {
		if slices.Contains(one.addrs, addr) {
			one.end()
			n++
		}
	}
	return n
}
