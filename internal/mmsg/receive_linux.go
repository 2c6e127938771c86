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

	messages  int // of the last receive
	datagrams []datagram
}

// datagram is one of those that a message holds.
type datagram struct {
	message int
	payload []byte
}

// groControl is the room of the control message UDP_GRO.
var groControl = unix.CmsgSpace(4)

// NewBatch returns memory for up to slots messages of room bytes each, with
// control bytes for the caller's control messages each. A longer message is cut.
func NewBatch(slots, room, control int) *Batch {
	control += groControl
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
		hdr.Control = &b.controls[i*control]
	}
	return b
}

// Full reports that the last Receive filled the memory: there may be more.
func (b *Batch) Full() bool { return b.messages == len(b.msgs) }

// Buffer is the room of the first slot, for other uses between two Receives.
func (b *Batch) Buffer() []byte { return b.bufs[:b.room] }

// receive takes messages and returns how many datagrams they hold.
func (b *Batch) receive(fd uintptr) (int, error) {
	b.messages, b.datagrams = 0, b.datagrams[:0]
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
			b.messages = int(n)
			for i := range b.messages {
				b.split(i, b.bufs[i*b.room:][:b.msgs[i].n], segmentSize(b.controlOf(i)))
			}
			return len(b.datagrams), nil
		case unix.EINTR:
		default:
			return 0, errno
		}
	}
}

// maxPieces is how many datagrams the kernel merges into one message
// (UDP_MAX_SEGMENTS).
const maxPieces = 128

// split notes the datagrams of a message: of size bytes each, but the last; 0: it is
// one datagram. What has more than the kernel makes is a forgery, and dropped.
func (b *Batch) split(message int, payload []byte, size int) {
	if size > 0 && len(payload) > maxPieces*size {
		return
	}
	for size > 0 && len(payload) > size {
		b.datagrams = append(b.datagrams, datagram{message, payload[:size:size]})
		payload = payload[size:]
	}
	b.datagrams = append(b.datagrams, datagram{message, payload})
}

// From is the sender of datagram i of the last Receive, unmapped; the zero value
// for a family other than IPv4 and IPv6.
func (b *Batch) From(i int) netip.AddrPort {
	m := b.datagrams[i].message
	name := (*[unix.SizeofSockaddrInet6]byte)(unsafe.Pointer(&b.names[m]))
	return ParseSockaddr(name[:min(int(b.msgs[m].hdr.Namelen), len(name))])
}

// Payload is datagram i of the last Receive. The next one overwrites it.
func (b *Batch) Payload(i int) []byte { return b.datagrams[i].payload }

// Control is the first of the control messages of datagram i that the caller asked
// the socket for: its level, type and data. Without one, or with a cut one, all are
// zero.
func (b *Batch) Control(i int) (level, typ int32, data []byte) {
	level, typ, data, rest := cutControl(b.controlOf(b.datagrams[i].message))
	if level == unix.SOL_UDP && typ == unix.UDP_GRO {
		level, typ, data, _ = cutControl(rest)
	}
	return level, typ, data
}

// controlOf is all that the kernel said of a message.
func (b *Batch) controlOf(message int) []byte {
	size := int(b.msgs[message].hdr.Controllen)
	return b.controls[message*b.control:][:min(size, b.control)]
}

// segmentSize reads the control message UDP_GRO, which the kernel puts before those
// of IP and IPv6; 0 without one.
func segmentSize(control []byte) int {
	level, typ, data, _ := cutControl(control)
	if level != unix.SOL_UDP || typ != unix.UDP_GRO || len(data) < 4 {
		return 0
	}
	return int(int32(binary.NativeEndian.Uint32(data))) //nolint:gosec // a C int
}

// cutControl cuts the first control message off others. Without one, or with a cut
// one, all are zero.
func cutControl(control []byte) (level, typ int32, data, rest []byte) {
	if len(control) < unix.CmsgLen(0) {
		return 0, 0, nil, nil
	}
	head := (*unix.Cmsghdr)(unsafe.Pointer(&control[0]))
	size := int(head.Len) //nolint:gosec // a cut or odd one is found below
	if size < unix.CmsgLen(0) || size > len(control) {
		return 0, 0, nil, nil
	}
	space := unix.CmsgSpace(size - unix.CmsgLen(0))
	return head.Level, head.Type, control[unix.CmsgLen(0):size], control[min(space, len(control)):]
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
