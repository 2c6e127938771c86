package router

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/portolan-net/portolan/internal/datapath"
	"github.com/portolan-net/portolan/internal/portolan"
)

const (
	// udpBatch is how many datagrams one recvmmsg takes at most.
	udpBatch = 32
	// udpRoom holds the largest datagram.
	udpRoom = 65536
)

// mmsghdr is struct mmsghdr of recvmmsg(2).
type mmsghdr struct {
	hdr unix.Msghdr
	n   uint32
}

// batch is the memory for one recvmmsg.
type batch struct {
	v6    bool
	msgs  [udpBatch]mmsghdr
	iovs  [udpBatch]unix.Iovec
	names [udpBatch]unix.RawSockaddrInet6
	oobs  [udpBatch][64]byte // one control message with a socket address
	bufs  []byte
}

func newBatch(v6 bool) *batch {
	b := &batch{v6: v6, bufs: make([]byte, udpBatch*udpRoom)}
	for i := range b.msgs {
		b.iovs[i].Base = &b.bufs[i*udpRoom]
		b.iovs[i].SetLen(udpRoom)
		hdr := &b.msgs[i].hdr
		hdr.Iov = &b.iovs[i]
		hdr.SetIovlen(1)
		hdr.Name = (*byte)(unsafe.Pointer(&b.names[i]))
		hdr.Control = &b.oobs[i][0]
	}
	return b
}

// receive takes the datagrams that are there, without waiting.
func (b *batch) receive(fd uintptr) (int, error) {
	for i := range b.msgs {
		hdr := &b.msgs[i].hdr
		hdr.Namelen = unix.SizeofSockaddrInet6
		hdr.SetControllen(len(b.oobs[i]))
		hdr.Flags = 0
	}
	for {
		n, _, errno := unix.Syscall6(unix.SYS_RECVMMSG, fd, uintptr(unsafe.Pointer(&b.msgs[0])), udpBatch, unix.MSG_DONTWAIT, 0, 0)
		switch errno {
		case 0:
			return int(n), nil
		case unix.EINTR:
		default:
			return 0, errno
		}
	}
}

// datagram returns one that receive took.
func (b *batch) datagram(i int) (src, dst netip.AddrPort, payload []byte, ok bool) {
	name := (*[unix.SizeofSockaddrInet6]byte)(unsafe.Pointer(&b.names[i]))
	src, ok = parseSockaddr(name[:b.msgs[i].hdr.Namelen])
	if !ok {
		return src, dst, nil, false
	}
	dst, ok = b.original(i)
	return src, dst, b.bufs[i*udpRoom:][:b.msgs[i].n], ok
}

// original reads the destination that the sender asked for from the control
// message of IP_RECVORIGDSTADDR or IPV6_RECVORIGDSTADDR.
func (b *batch) original(i int) (netip.AddrPort, bool) {
	size := int(b.msgs[i].hdr.Controllen)
	if size < unix.CmsgLen(unix.SizeofSockaddrInet4) || size > len(b.oobs[i]) {
		return netip.AddrPort{}, false
	}
	head := (*unix.Cmsghdr)(unsafe.Pointer(&b.oobs[i][0]))
	level, typ := int32(unix.SOL_IP), int32(unix.IP_ORIGDSTADDR)
	if b.v6 {
		level, typ = unix.SOL_IPV6, unix.IPV6_ORIGDSTADDR
	}
	if head.Level != level || head.Type != typ {
		return netip.AddrPort{}, false
	}
	return parseSockaddr(b.oobs[i][unix.CmsgLen(0):size])
}

// parseSockaddr reads a struct sockaddr_in or sockaddr_in6.
func parseSockaddr(b []byte) (netip.AddrPort, bool) {
	if len(b) < unix.SizeofSockaddrInet4 {
		return netip.AddrPort{}, false
	}
	port := binary.BigEndian.Uint16(b[2:])
	switch family := binary.NativeEndian.Uint16(b); {
	case family == unix.AF_INET:
		return netip.AddrPortFrom(netip.AddrFrom4([4]byte(b[4:8])), port), true
	case family == unix.AF_INET6 && len(b) >= 24:
		return netip.AddrPortFrom(netip.AddrFrom16([16]byte(b[8:24])).Unmap(), port), true
	}
	return netip.AddrPort{}, false
}

// readUDP passes datagrams of one family to the handler, until ctx ends.
func (d *Datapath) readUDP(ctx context.Context, file *os.File, v6 bool, handler datapath.Handler) error {
	raw, err := file.SyscallConn()
	if err != nil {
		return fmt.Errorf("read UDP listener: %w", err)
	}
	b := newBatch(v6)
	for ctx.Err() == nil {
		n, err := waitBatch(raw, b)
		if ctx.Err() != nil {
			break
		}
		if err != nil {
			return fmt.Errorf("read UDP listener: %w", err)
		}
		for i := range n {
			d.deliverUDP(handler, b, i)
		}
	}
	return nil
}

// waitBatch receives, and waits for the first datagram.
func waitBatch(raw syscall.RawConn, b *batch) (n int, err error) {
	var recvErr error
	err = raw.Read(func(fd uintptr) bool {
		n, recvErr = b.receive(fd)
		return !errors.Is(recvErr, unix.EAGAIN)
	})
	return n, errors.Join(err, recvErr)
}

func (d *Datapath) deliverUDP(handler datapath.Handler, b *batch, i int) {
	src, dst, payload, ok := b.datagram(i)
	if !ok {
		return
	}
	flow := portolan.Flow{Proto: portolan.UDP, Src: src, Dst: dst}
	// Multicast and broadcast are not carried, and have no return path.
	if !answerable(src.Addr(), dst.Addr()) || src.Port() == 0 || d.isBroadcast(dst.Addr()) {
		return
	}
	if !d.known(src.Addr()) {
		d.log.Debug("drop source that the machine does not have", "flow", flow)
		return
	}
	handler.HandleUDP(flow, payload)
}
