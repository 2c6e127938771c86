package socket

import (
	"encoding/binary"
	"net/netip"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Package unix asks for the protocol of each socket whose address it reads. These
// calls don't, and never wait: Go's scheduler is not told of them.

// accept4 returns a non-blocking connection of a listener, and its far address.
func accept4(listener int) (fd int, remote netip.AddrPort, err error) {
	var raw unix.RawSockaddrInet6
	size := uint32(unsafe.Sizeof(raw))
	n, _, errno := unix.RawSyscall6(unix.SYS_ACCEPT4, uintptr(listener), uintptr(unsafe.Pointer(&raw)), uintptr(unsafe.Pointer(&size)),
		unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0, 0)
	if errno != 0 {
		return -1, netip.AddrPort{}, errno
	}
	return int(n), address(&raw), nil
}

// LocalAddr is the socket's own address.
func LocalAddr(fd int) (netip.AddrPort, error) {
	var raw unix.RawSockaddrInet6
	size := uint32(unsafe.Sizeof(raw))
	_, _, errno := unix.RawSyscall(unix.SYS_GETSOCKNAME, uintptr(fd), uintptr(unsafe.Pointer(&raw)), uintptr(unsafe.Pointer(&size)))
	if errno != 0 {
		return netip.AddrPort{}, errno
	}
	return address(&raw), nil
}

// address reads what the kernel wrote for a socket of either family: the address
// of IPv4 is where IPv6 has the flow label. IPv4 is never dressed as IPv6.
func address(raw *unix.RawSockaddrInet6) netip.AddrPort {
	port := binary.BigEndian.Uint16((*[2]byte)(unsafe.Pointer(&raw.Port))[:])
	switch raw.Family {
	case unix.AF_INET:
		return netip.AddrPortFrom(netip.AddrFrom4([4]byte((*[4]byte)(unsafe.Pointer(&raw.Flowinfo))[:])), port)
	case unix.AF_INET6:
		return unmap(netip.AddrPortFrom(netip.AddrFrom16(raw.Addr), port))
	}
	return netip.AddrPort{}
}
