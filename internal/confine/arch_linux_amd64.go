package confine

import "golang.org/x/sys/unix"

const (
	auditArch = unix.AUDIT_ARCH_X86_64
	maxNumber = 0x3fffffff // above it are the calls of the x32 ABI
)

// deniedHere lists the calls of this architecture alone.
func deniedHere() []uint32 {
	return []uint32{
		unix.SYS_IOPL, unix.SYS_IOPERM, unix.SYS_MODIFY_LDT, unix.SYS_MKNOD, unix.SYS_USELIB, unix.SYS__SYSCTL,
	}
}
