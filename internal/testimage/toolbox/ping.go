//go:build linux

package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/portolan-net/portolan/internal/testimage"
)

// ICMP echo, RFC 792 and RFC 4443: type, code, checksum, identifier, sequence number, data.
const (
	echoRequestV4, echoReplyV4 = 8, 0
	echoRequestV6, echoReplyV6 = 128, 129
	echoHeader                 = 8
)

// ping sends echo requests, one second apart, and wants every answer whole.
func ping(ctx context.Context, args []string, r *testimage.Result) error {
	flags := newFlags("ping")
	count := flags.Int("count", 1, "requests")
	size := flags.Int("size", 56, "data bytes")
	ttl := flags.Int("ttl", 0, "time to live (0: the kernel's)")
	raw := flags.Bool("raw", false, "use a raw socket instead of a ping socket")
	timeout := flags.Duration("timeout", 5*time.Second, "for each answer")
	arg := parse(flags, args, 1, 1)[0]
	addr, err := netip.ParseAddr(arg)
	if err != nil {
		return fmt.Errorf("parse address %s: want an IP address", arg)
	}
	conn, err := pingSocket(addr, *raw, *ttl)
	if err != nil {
		return err
	}
	defer conn.Close()
	r.Remote = addr.String()
	for seq := 1; seq <= *count; seq++ {
		if seq > 1 && sleep(ctx, []string{"1s"}, r) != nil {
			break
		}
		if err := echoOnce(conn, addr.Is4(), seq, *size, *timeout, r); err != nil {
			return err
		}
	}
	return nil
}

// pingSocket opens a connected ICMP socket which reports ICMP errors.
func pingSocket(addr netip.Addr, raw bool, ttl int) (*os.File, error) {
	kind := unix.SOCK_DGRAM
	if raw {
		kind = unix.SOCK_RAW
	}
	family, proto, level, recvErr, hops := unix.AF_INET, unix.IPPROTO_ICMP, unix.IPPROTO_IP, unix.IP_RECVERR, unix.IP_TTL
	if addr.Is6() {
		family, proto, level, recvErr, hops = unix.AF_INET6, unix.IPPROTO_ICMPV6, unix.IPPROTO_IPV6, unix.IPV6_RECVERR, unix.IPV6_UNICAST_HOPS
	}
	fd, err := unix.Socket(family, kind|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, proto)
	if err != nil && !raw {
		// As ping(8) does: an engine without root opens ping_group_range in no
		// container, but containers have CAP_NET_RAW.
		fd, err = unix.Socket(family, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, proto)
	}
	if err != nil {
		return nil, fmt.Errorf("open ICMP socket: %w", err)
	}
	err = unix.SetsockoptInt(fd, level, recvErr, 1)
	if ttl > 0 {
		err = errors.Join(err, unix.SetsockoptInt(fd, level, hops, ttl))
	}
	if err = errors.Join(err, unix.Connect(fd, sockaddr(netip.AddrPortFrom(addr, 0)))); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("prepare ICMP socket: %w", err)
	}
	return os.NewFile(uintptr(fd), "icmp"), nil
}

// echoOnce sends one request and waits for its answer, whatever else comes.
func echoOnce(conn *os.File, v4 bool, seq, size int, timeout time.Duration, r *testimage.Result) error {
	request := make([]byte, echoHeader+size)
	request[0] = echoRequestV6
	if v4 {
		request[0] = echoRequestV4
	}
	id := uint16(os.Getpid())
	binary.BigEndian.PutUint16(request[4:], id)
	binary.BigEndian.PutUint16(request[6:], uint16(seq))
	copy(request[echoHeader:], payload(size))
	if v4 { // the kernel fills in ICMPv6's, and both for ping sockets
		binary.BigEndian.PutUint16(request[2:], checksum(request))
	}
	if err := conn.SetReadDeadline(time.Now().Add(timeout)); err != nil {
		return err
	}
	start := time.Now()
	if _, err := conn.Write(request); err != nil {
		return err
	}
	buf := make([]byte, 1<<16)
	for {
		n, err := conn.Read(buf)
		if err != nil {
			return err
		}
		answer := stripIPv4(buf[:n])
		if !isReply(answer, seq) {
			continue
		}
		r.RTT = float64(time.Since(start).Microseconds()) / 1000
		r.Bytes = int64(len(answer) - echoHeader)
		if !bytes.Equal(answer[echoHeader:], request[echoHeader:]) {
			return errMismatch
		}
		return nil
	}
}

// stripIPv4 takes the IP header off what an IPv4 raw socket delivers. No ICMP
// type that matters here begins with 0x4.
func stripIPv4(packet []byte) []byte {
	if len(packet) > 0 && packet[0]>>4 == 4 {
		if header := int(packet[0]&0xf) * 4; header <= len(packet) {
			return packet[header:]
		}
	}
	return packet
}

// isReply reports whether message is an echo reply with this sequence number.
func isReply(message []byte, seq int) bool {
	return len(message) >= echoHeader && (message[0] == echoReplyV4 || message[0] == echoReplyV6) &&
		binary.BigEndian.Uint16(message[6:]) == uint16(seq)
}

// checksum is the Internet checksum, RFC 1071.
func checksum(data []byte) uint16 {
	var sum uint32
	for ; len(data) >= 2; data = data[2:] {
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

// sockaddr is addr as system calls want it.
func sockaddr(addr netip.AddrPort) unix.Sockaddr {
	if addr.Addr().Is4() {
		return &unix.SockaddrInet4{Port: int(addr.Port()), Addr: addr.Addr().As4()}
	}
	return &unix.SockaddrInet6{Port: int(addr.Port()), Addr: addr.Addr().As16()}
}
