package mmsg

import (
	"encoding/binary"
	"net/netip"
	"sync"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	// sendSlots is how many datagrams one sendmmsg takes at most. A batch that was
	// received in one piece is rarely longer.
	sendSlots = maxSegments
	// maxSegments is UDP_MAX_SEGMENTS of older kernels; newer ones take 128.
	maxSegments = 64
	// maxMessage is the largest datagram's payload over IPv4.
	maxMessage = 65507
)

// outgoing is the memory for one sendmmsg.
type outgoing struct {
	msgs     [sendSlots]mmsghdr
	counts   [sendSlots]int // datagrams in each of msgs
	iovs     [sendSlots]unix.Iovec
	controls [sendSlots][]byte // of joined messages
	name     [unix.SizeofSockaddrInet6]byte
}

var spare = sync.Pool{New: func() any { return new(outgoing) }}

// fill prepares messages for as many of payloads as there is room for, those smaller
// than below joined, and returns the number of messages.
func (o *outgoing) fill(namelen uint32, control []byte, payloads [][]byte, below int) (messages int) {
	payloads = payloads[:min(len(payloads), sendSlots)]
	for i, payload := range payloads {
		o.iovs[i] = unix.Iovec{Base: unsafe.SliceData(payload)}
		o.iovs[i].SetLen(len(payload))
	}
	for first := 0; first < len(payloads); messages++ {
		count := 1
		if size := len(payloads[first]); size < below {
			count = joinable(payloads[first:])
		}
		hdr := &o.msgs[messages].hdr
		*hdr = unix.Msghdr{Name: &o.name[0], Namelen: namelen, Iov: &o.iovs[first], Control: unsafe.SliceData(control)}
		hdr.SetIovlen(count)
		hdr.SetControllen(len(control))
		if count > 1 {
			joined := appendSegment(append(o.controls[messages][:0], control...), len(payloads[first]))
			o.controls[messages], hdr.Control = joined, &joined[0]
			hdr.SetControllen(len(joined))
		}
		o.counts[messages] = count
		first += count
	}
	return messages
}

// joinable is how many of payloads, at least the first, may leave as one message.
func joinable(payloads [][]byte) int {
	size, total := len(payloads[0]), len(payloads[0])
	for i, payload := range payloads[1:] {
		total += len(payload)
		switch {
		case len(payload) == 0, len(payload) > size, total > maxMessage:
			return i + 1
		case len(payload) < size:
			return i + 2
		}
	}
	return len(payloads)
}

// appendSegment adds the control message UDP_SEGMENT to others.
func appendSegment(control []byte, size int) []byte {
	at := len(control)
	control = append(control, make([]byte, unix.CmsgSpace(2))...)
	head := (*unix.Cmsghdr)(unsafe.Pointer(&control[at]))
	head.Level, head.Type = unix.SOL_UDP, unix.UDP_SEGMENT
	head.SetLen(unix.CmsgLen(2))
	binary.NativeEndian.PutUint16(control[at+unix.CmsgLen(0):], uint16(size)) //nolint:gosec // at most maxMessage
	return control
}

// send sends the first of the messages and returns how many of them.
func (o *outgoing) send(fd uintptr, messages int) (int, unix.Errno) {
	n, _, errno := unix.Syscall6(unix.SYS_SENDMMSG, fd, uintptr(unsafe.Pointer(&o.msgs[0])), uintptr(messages), unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL, 0, 0)
	return int(n), errno
}

// datagrams is how many the first n messages hold.
func (o *outgoing) datagrams(n int) (sum int) {
	for _, count := range o.counts[:n] {
		sum += count
	}
	return sum
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
