package confine

import "golang.org/x/sys/unix"

const (
	auditArch = unix.AUDIT_ARCH_AARCH64
	maxNumber = 0 // there is one ABI
)

// deniedHere lists the calls of this architecture alone.
func deniedHere() []uint32 { return nil }
