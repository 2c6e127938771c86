//go:build !linux

package dns

import "syscall"

// hearErrors does nothing: other systems tell connected UDP sockets by themselves.
func hearErrors(_, _ string, _ syscall.RawConn) error { return nil }
