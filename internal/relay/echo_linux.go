package relay

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// echoHeader is the length of the header of an echo request (RFC 792, RFC 4443):
// type, code, checksum, identifier, sequence number.
const echoHeader = 8

// Message types.
const (
	echoReply4, echoRequest4 = 0, 8
	echoRequest6, echoReply6 = 128, 129
)

// pingSocket sends echo requests of one family.
type pingSocket struct {
	file *os.File
	conn syscall.RawConn
	six  bool
	raw  bool   // a raw socket: we write identifier and checksum
	id   uint16 // of a raw socket; a ping socket's is the kernel's
}

// openPing opens a ping socket (icmp(7), ping_group_range) or, where the host
// forbids that and we may, a raw one.
func openPing(six bool) (*pingSocket, error) {
	domain, proto := unix.AF_INET, unix.IPPROTO_ICMP
	if six {
		domain, proto = unix.AF_INET6, unix.IPPROTO_ICMPV6
	}
	const flags = unix.SOCK_NONBLOCK | unix.SOCK_CLOEXEC
	fd, err := unix.Socket(domain, unix.SOCK_DGRAM|flags, proto)
	raw := false
	if err == unix.EACCES {
		if rawFD, rawErr := unix.Socket(domain, unix.SOCK_RAW|flags, proto); rawErr == nil {
			fd, err, raw = rawFD, nil, true
		}
	}
	if err != nil {
		return nil, fmt.Errorf("open a ping socket: %w", err)
	}
	if err := tunePing(fd, six, raw); err != nil {
		_ = unix.Close(fd) // the first error is the one to tell
		return nil, err
	}
	p := &pingSocket{file: os.NewFile(uintptr(fd), "ping"), six: six, raw: raw, id: uint16(rand.Uint32())}
	if p.conn, err = p.file.SyscallConn(); err != nil {
		p.close()
		return nil, err
	}
	return p, nil
}

// tunePing asks for errors, large buffers and, on a raw socket, for echo replies
// only.
func tunePing(fd int, six, raw bool) error {
	if err := queueErrors(fd, six); err != nil {
		return err
	}
	_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, udpBuffer) // capped, never refused
	_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUF, udpBuffer)
	var err error
	switch {
	case raw && six:
		var block unix.ICMPv6Filter
		for i := range block.Data {
			block.Data[i] = ^uint32(0)
		}
		block.Data[echoReply6/32] &^= 1 << (echoReply6 % 32)
		err = unix.SetsockoptICMPv6Filter(fd, unix.IPPROTO_ICMPV6, unix.ICMPV6_FILTER, &block)
	case raw:
		const icmpFilter = 1 // ICMP_FILTER, include/uapi/linux/icmp.h
		block := ^(1 << echoReply4)
		err = unix.SetsockoptInt(fd, unix.SOL_RAW, icmpFilter, block)
	}
	if err != nil {
		return fmt.Errorf("filter a raw ICMP socket: %w", err)
	}
	return nil
}

func (p *pingSocket) close() { _ = p.file.Close() } // nothing is buffered

// send sends one request without blocking.
func (p *pingSocket) send(to netip.Addr, number uint16, payload []byte) error {
	buf := buffers.Get().(*[bufferSize]byte)
	defer buffers.Put(buf)
	if len(payload) > len(buf)-echoHeader {
		return unix.EMSGSIZE
	}
	packet := buf[:echoHeader+copy(buf[echoHeader:], payload)]
	p.writeHeader(packet, number)
	var err error
	if ctlErr := p.conn.Control(func(fd uintptr) {
		err = sendTo(int(fd), netip.AddrPortFrom(to, 0), packet)
	}); ctlErr != nil {
		return ctlErr
	}
	if err != nil {
		return fmt.Errorf("ping %s: %w", to, err)
	}
	return nil
}

func (p *pingSocket) writeHeader(packet []byte, number uint16) {
	clear(packet[:echoHeader])
	packet[0] = echoRequest4
	if p.six {
		packet[0] = echoRequest6
	}
	binary.BigEndian.PutUint16(packet[4:], p.id)
	binary.BigEndian.PutUint16(packet[6:], number)
	if p.raw && !p.six { // elsewhere the kernel writes it
		binary.BigEndian.PutUint16(packet[2:], checksum(packet))
	}
}

// checksum is the Internet checksum of RFC 1071.
func checksum(data []byte) uint16 {
	var sum uint32
	for ; len(data) > 1; data = data[2:] {
		sum += uint32(binary.BigEndian.Uint16(data))
	}
	if len(data) == 1 {
		sum += uint32(data[0]) << 8
	}
	for sum>>16 != 0 {
		sum = sum&0xffff + sum>>16
	}
	return ^uint16(sum)
}

// read passes on what arrives until the socket is closed.
func (p *pingSocket) read(to echoReader) {
	_ = p.conn.Read(func(fd uintptr) bool { // its error says that the socket is closed
		buf := buffers.Get().(*[bufferSize]byte)
		defer buffers.Put(buf)
		return !p.readReady(to, int(fd), buf[:])
	})
}

// readReady takes what is there now; false means that the socket is unusable.
func (p *pingSocket) readReady(to echoReader, fd int, buf []byte) bool {
	for {
		n, from, err := unix.Recvfrom(fd, buf, unix.MSG_DONTWAIT)
		switch {
		case err == nil:
			if number, payload, ok := p.parse(p.strip(buf[:n]), echoReply4, echoReply6); ok {
				to.reply(addrPort(from).Addr(), number, payload)
			}
		case errors.Is(err, unix.EINTR):
		case errors.Is(err, unix.EBADF), errors.Is(err, unix.ENOTSOCK):
			return false
		default: // EAGAIN, or an error that the queue explains
			if !p.readErrors(to, fd, buf) && err == unix.EAGAIN {
				return true
			}
		}
	}
}

// readErrors passes on the errors that the queue holds, and reports whether
// there were any.
func (p *pingSocket) readErrors(to echoReader, fd int, buf []byte) bool {
	any := false
	for {
		e, ok := nextError(fd, buf)
		if !ok {
			return any
		}
		any = true
		if number, payload, ok := p.parse(e.payload, echoRequest4, echoRequest6); ok && e.reason != 0 {
			to.refused(e.to.Addr(), number, payload, e.reason)
		}
	}
}

// strip removes the IP header that a raw IPv4 socket delivers.
func (p *pingSocket) strip(packet []byte) []byte {
	if !p.raw || p.six || len(packet) == 0 {
		return packet
	}
	return packet[min(len(packet), int(packet[0]&0xf)*4):]
}

// parse reads an echo message of the family's type and returns our number and
// the data.
func (p *pingSocket) parse(packet []byte, type4, type6 byte) (number uint16, data []byte, ok bool) {
	want := type4
	if p.six {
		want = type6
	}
	if len(packet) < echoHeader || packet[0] != want {
		return 0, nil, false
	}
	if p.raw && binary.BigEndian.Uint16(packet[4:]) != p.id {
		return 0, nil, false // another program's ping
	}
	return binary.BigEndian.Uint16(packet[6:]), packet[echoHeader:], true
}

// sendTo sends one datagram. A socket with an error queue also reports the
// error of an earlier datagram here, once; so an error counts only when it
// comes again. A datagram that is too long or finds no room is lost.
func sendTo(fd int, to netip.AddrPort, payload []byte) error {
	var err error
	for range sendAttempts {
		_, err = retry(func() (int, error) { return 0, unix.Sendto(fd, payload, unix.MSG_DONTWAIT, sockaddr(to)) })
		switch {
		case err == nil, err == unix.EAGAIN, err == unix.ENOBUFS, err == unix.EMSGSIZE:
			return nil
		}
	}
	return err
}
