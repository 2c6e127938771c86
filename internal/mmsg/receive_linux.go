package mmsg

import (
	"encoding/binary"
	"net/netip"
	"unsafe"

	"golang.org/x/sys/unix"
)

// mmsghdr is struct mmsghdr of recvmmsg(2).
type mmsghdr struct {
	hdr unix.Msghdr
	n   uint32
}

// Batch is the memory for one recvmmsg. The kernel gives a page to a slot when a
// datagram first fills it, so a batch for large datagrams costs little while they
// are small. A Batch must not be copied or used by two goroutines at a time.
type Batch struct {
	room, control int
	msgs          []mmsghdr
	iovs          []unix.Iovec
	names         []unix.RawSockaddrInet6
	controls      []byte
	bufs          []byte
}

// NewBatch returns memory for up to slots datagrams of room bytes each, with
// control bytes for control messages each. A longer datagram is cut.
func NewBatch(slots, room, control int) *Batch {
	b := &Batch{
		room: room, control: control,
		msgs: make([]mmsghdr, slots), iovs: make([]unix.Iovec, slots), names: make([]unix.RawSockaddrInet6, slots),
		controls: make([]byte, slots*control), bufs: make([]byte, slots*room),
	}
	for i := range b.msgs {
		b.iovs[i].Base = &b.bufs[i*room]
		b.iovs[i].SetLen(room)
		hdr := &b.msgs[i].hdr
		hdr.Iov = &b.iovs[i]
		hdr.SetIovlen(1)
		hdr.Name = (*byte)(unsafe.Pointer(&b.names[i]))
		if control > 0 {
			hdr.Control = &b.controls[i*control]
		}
	}
	return b
}

// Slots is the most that one Receive returns.
func (b *Batch) Slots() int { return len(b.msgs) }

// Buffer is the room of the first slot, for other uses between two Receives.
func (b *Batch) Buffer() []byte { return b.bufs[:b.room] }

// Receive takes the datagrams that are there, at least one, without waiting. The
// error is an Errno: EAGAIN when there is none, or a pending error of the socket.
func (b *Batch) Receive(fd uintptr) (int, error) {
	for i := range b.msgs {
		hdr := &b.msgs[i].hdr
		hdr.Namelen = unix.SizeofSockaddrInet6
		hdr.SetControllen(b.control)
		hdr.Flags = 0
	}
	for {
		n, _, errno := unix.Syscall6(unix.SYS_RECVMMSG, fd, uintptr(unsafe.Pointer(&b.msgs[0])), uintptr(len(b.msgs)), unix.MSG_DONTWAIT, 0, 0)
		switch errno {
		case 0:
			return int(n), nil
		case unix.EINTR:
		default:
			return 0, errno
		}
	}
}

// From is the sender of datagram i of the last Receive, unmapped; the zero value
// for a family other than IPv4 and IPv6.
func (b *Batch) From(i int) netip.AddrPort {
	name := (*[unix.SizeofSockaddrInet6]byte)(unsafe.Pointer(&b.names[i]))
	return ParseSockaddr(name[:min(int(b.msgs[i].hdr.Namelen), len(name))])
}

// Payload is datagram i of the last Receive. The next one overwrites it.
func (b *Batch) Payload(i int) []byte { return b.bufs[i*b.room:][:b.msgs[i].n] }

// Control is the first control message of datagram i: its level, type and data.
// Without one, or with a cut one, all are zero.
func (b *Batch) Control(i int) (level, typ int32, data []byte) {
	size := int(b.msgs[i].hdr.Controllen)
	if size < unix.CmsgLen(0) || size > b.control {
		return 0, 0, nil
	}
	raw := b.controls[i*b.control:][:size]
	head := (*unix.Cmsghdr)(unsafe.Pointer(&raw[0]))
	if int(head.Len) < unix.CmsgLen(0) || int(head.Len) > size {
		return 0, 0, nil
	}
	return head.Level, head.Type, raw[unix.CmsgLen(0):head.Len]
}

// ParseSockaddr reads a struct sockaddr_in or sockaddr_in6 as the kernel wrote
// it, and unmaps the address; the zero value for everything else. Zones are
// dropped.
func ParseSockaddr(b []byte) netip.AddrPort {
	if len(b) < unix.SizeofSockaddrInet4 {
		return netip.AddrPort{}
	}
	port := binary.BigEndian.Uint16(b[2:])
	switch family := binary.NativeEndian.Uint16(b); {
	case family == unix.AF_INET:
		return netip.AddrPortFrom(netip.AddrFrom4([4]byte(b[4:8])), port)
	case family == unix.AF_INET6 && len(b) >= 24:
		return netip.AddrPortFrom(netip.AddrFrom16([16]byte(b[8:24])).Unmap(), port)
	}
	return netip.AddrPort{}
}
