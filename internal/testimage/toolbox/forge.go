//go:build linux

package main

import (
	"context"
	"encoding/binary"
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"

	"github.com/portolan-net/portolan/internal/testimage"
)

// forgeUDP sends datagrams with any source address, through a raw socket
// (CAP_NET_RAW, which containers have by default).
func forgeUDP(_ context.Context, args []string, r *testimage.Result) error {
	flags := newFlags("forge-udp")
	src := flags.String("src", "", "source IP")
	dst := flags.String("dst", "", "destination IP:PORT")
	sport := flags.Uint("sport", 40000, "source port")
	text := flags.String("payload", "forged", "what to send")
	count := flags.Int("count", 1, "how many")
	parse(flags, args, 0, 0)
	to, err := netip.ParseAddrPort(*dst)
	if err != nil {
		return fmt.Errorf("parse -dst %q: want IP:PORT", *dst)
	}
	ip, err := netip.ParseAddr(*src)
	if err != nil || ip.Is4() != to.Addr().Is4() {
		return fmt.Errorf("parse -src %q: want an IP address of the family of -dst", *src)
	}
	from := netip.AddrPortFrom(ip, uint16(*sport))

	family := unix.AF_INET
	if ip.Is6() {
		family = unix.AF_INET6
	}
	// IPPROTO_RAW: the header is ours (raw(7); IPv6 alike since Linux 4.5).
	fd, err := unix.Socket(family, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_RAW)
	if err != nil {
		return fmt.Errorf("open raw socket: %w", err)
	}
	defer unix.Close(fd)
	packet := udpPacket(from, to, []byte(*text))
	r.Local, r.Remote = from.String(), to.String()
	for range *count {
		if err := unix.Sendto(fd, packet, 0, sockaddr(netip.AddrPortFrom(to.Addr(), 0))); err != nil {
			return fmt.Errorf("send datagram: %w", err)
		}
		r.Bytes += int64(len(*text))
	}
	return nil
}

// udpPacket is an IP packet with a UDP datagram in it (RFC 791, RFC 8200, RFC 768).
func udpPacket(from, to netip.AddrPort, data []byte) []byte {
	length := 8 + len(data)
	udp := make([]byte, 0, length)
	udp = binary.BigEndian.AppendUint16(udp, from.Port())
	udp = binary.BigEndian.AppendUint16(udp, to.Port())
	udp = binary.BigEndian.AppendUint16(udp, uint16(length))
	udp = binary.BigEndian.AppendUint16(udp, 0)
	udp = append(udp, data...)

	src, dst := from.Addr().AsSlice(), to.Addr().AsSlice()
	pseudo := append(append([]byte{}, src...), dst...)
	pseudo = binary.BigEndian.AppendUint32(pseudo, uint32(length))
	pseudo = append(pseudo, 0, 0, 0, unix.IPPROTO_UDP)
	sum := checksum(append(pseudo, udp...))
	if sum == 0 {
		sum = 0xffff // 0 would mean "none"
	}
	binary.BigEndian.PutUint16(udp[6:], sum)

	var header []byte
	if from.Addr().Is4() {
		header = make([]byte, 20, 20+length)
		header[0], header[8], header[9] = 0x45, 64, unix.IPPROTO_UDP
		binary.BigEndian.PutUint16(header[2:], uint16(20+length))
		copy(header[12:], src)
		copy(header[16:], dst)
		binary.BigEndian.PutUint16(header[10:], checksum(header))
	} else {
		header = make([]byte, 40, 40+length)
		header[0], header[6], header[7] = 0x60, unix.IPPROTO_UDP, 64
		binary.BigEndian.PutUint16(header[4:], uint16(length))
		copy(header[8:], src)
		copy(header[24:], dst)
	}
	return append(header, udp...)
}
