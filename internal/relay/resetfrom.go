package relay

import (
	"context"
	"net"
	"net/netip"
	"sync"

	"github.com/portolan-net/portolan/internal/datapath"
)

// ResetFrom ends every TCP flow one of whose connections has addr as its own
// address, with an RST to both sides, and returns how many these were. It is for
// an address that the host has lost: the kernel would go on for a quarter of an
// hour sending what nobody can answer.
func ResetFrom(addr netip.Addr) int {
	return resetKernelFrom(addr) + copying.resetFrom(addr)
}

// hasAddress reports whether addr is conn's own address.
func hasAddress(conn datapath.Conn, addr netip.Addr) bool {
	tcp, ok := conn.LocalAddr().(*net.TCPAddr)
	return ok && tcp.AddrPort().Addr().Unmap() == addr
}

// copying are the flows that goroutines carry.
var copying = streams{all: map[*stream]context.CancelFunc{}}

// streams is a set of flows, each with what ends it.
type streams struct {
	mu  sync.Mutex
	all map[*stream]context.CancelFunc // guarded by mu
}

func (s *streams) add(f *stream, end context.CancelFunc) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.all[f] = end
}

func (s *streams) remove(f *stream) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.all, f)
}

func (s *streams) resetFrom(addr netip.Addr) (n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for f, end := range s.all {
		if hasAddress(f.a.Conn, addr) || hasAddress(f.b.Conn, addr) {
			end()
			n++
		}
	}
	return n
}
