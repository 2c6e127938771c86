//go:build !linux

package egress

import "syscall"

// tuneLoopback has nothing to tune here.
func tuneLoopback(_, _ string, _ syscall.RawConn) error { return nil }
