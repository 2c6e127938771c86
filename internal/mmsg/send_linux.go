package mmsg

import (
	"encoding/binary"
	"net/netip"
	"sync"
	"unsafe"

	"golang.org/x/sys/unix"
)

// sendSlots is how many datagrams one sendmmsg takes at most. A batch that was
// received in one piece is rarely longer.
const sendSlots = 32

// outgoing is the memory for one sendmmsg.
type outgoing struct {
	msgs [sendSlots]mmsghdr
	iovs [sendSlots]unix.Iovec
	name [unix.SizeofSockaddrInet6]byte
}

var spare = sync.Pool{New: func() any { return new(outgoing) }}

// Send sends payloads, in order, to one address (the zero value: where the socket is
// connected to) with the same control messages
// (nil for none), without waiting. It returns how many were sent; the error, an
// Errno, is about the payload after those, and nil when all were sent.
func Send(fd uintptr, to netip.AddrPort, control []byte, payloads [][]byte) (int, error) {
	out := spare.Get().(*outgoing)
	defer spare.Put(out)
	namelen := out.address(to)
	total := 0
	for total < len(payloads) {
		batch := payloads[total:min(len(payloads), total+sendSlots)]
		for i, payload := range batch {
			out.set(i, namelen, control, payload)
		}
		n, _, errno := unix.Syscall6(unix.SYS_SENDMMSG, fd, uintptr(unsafe.Pointer(&out.msgs[0])), uintptr(len(batch)), unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL, 0, 0)
		switch errno {
		case 0:
			total += int(n)
		case unix.EINTR:
		default:
			return total, errno
		}
	}
	return total, nil
}

// address writes the sockaddr and returns its length.
func (o *outgoing) address(to netip.AddrPort) uint32 {
	if !to.IsValid() {
		return 0
	}
	binary.BigEndian.PutUint16(o.name[2:], to.Port())
	if to.Addr().Is4() {
		binary.NativeEndian.PutUint16(o.name[:], unix.AF_INET)
		ip := to.Addr().As4()
		copy(o.name[4:], ip[:])
		return unix.SizeofSockaddrInet4
	}
	binary.NativeEndian.PutUint16(o.name[:], unix.AF_INET6)
	ip := to.Addr().As16()
	clear(o.name[4:]) // no flow label, no zone
	copy(o.name[8:], ip[:])
	return unix.SizeofSockaddrInet6
}

func (o *outgoing) set(i int, namelen uint32, control, payload []byte) {
	o.iovs[i] = unix.Iovec{Base: unsafe.SliceData(payload)}
	o.iovs[i].SetLen(len(payload))
	hdr := &o.msgs[i].hdr
	*hdr = unix.Msghdr{Name: &o.name[0], Namelen: namelen, Iov: &o.iovs[i], Control: unsafe.SliceData(control)}
	hdr.SetIovlen(1)
	hdr.SetControllen(len(control))
}
