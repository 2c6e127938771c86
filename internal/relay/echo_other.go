//go:build !linux

package relay

import (
	"fmt"
	"net/netip"
	"syscall"
)

// pingSocket is not written for this system yet.
type pingSocket struct{}

func openPing(bool) (*pingSocket, error) {
	return nil, fmt.Errorf("open a ping socket: not supported on this system: %w", syscall.EACCES)
}

func (*pingSocket) close() {}

func (*pingSocket) send(netip.Addr, uint16, []byte) error { return syscall.EACCES }

func (*pingSocket) read(echoReader) {}
