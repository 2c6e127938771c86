//go:build linux

package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/portolan-net/portolan/internal/testimage"
)

// forgeLink tells everybody on the link, by broadcast and multicast, that
// addresses of others are at this interface: ARP requests and replies for IPv4
// (RFC 826), neighbour advertisements for IPv6 (RFC 4861, 4.4). It also
// advertises itself as a router (4.2) with a prefix of its own, and offers a
// DHCP lease (RFC 2131) with itself as gateway and name server. Needs CAP_NET_RAW.
func forgeLink(_ context.Context, args []string, r *testimage.Result) error {
	flags := newFlags("forge-link")
	name := flags.String("iface", "eth0", "interface to send from")
	claims := flags.String("claim", "", "addresses to claim, separated by commas")
	parse(flags, args, 0, 0)
	iface, err := net.InterfaceByName(*name)
	if err != nil {
		return fmt.Errorf("find interface %s: %w", *name, err)
	}
	frames := [][]byte{routerAdvertisement(iface.HardwareAddr), dhcpOffer(iface.HardwareAddr)}
	for claim := range strings.SplitSeq(*claims, ",") {
		addr, err := netip.ParseAddr(claim)
		if err != nil {
			return fmt.Errorf("parse -claim %q: want IP addresses", claim)
		}
		if addr.Is4() {
			frames = append(frames, arpClaim(iface.HardwareAddr, addr, 1), arpClaim(iface.HardwareAddr, addr, 2))
		} else {
			frames = append(frames, neighbourAdvertisement(iface.HardwareAddr, addr))
		}
	}
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0) // 0: sends only
	if err != nil {
		return fmt.Errorf("open packet socket: %w", err)
	}
	defer unix.Close(fd)
	for _, frame := range frames {
		if err := unix.Sendto(fd, frame, 0, &unix.SockaddrLinklayer{Ifindex: iface.Index}); err != nil {
			return fmt.Errorf("send frame: %w", err)
		}
		r.Bytes += int64(len(frame))
	}
	return nil
}

var (
	broadcastMAC = net.HardwareAddr{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}
	allNodesMAC  = net.HardwareAddr{0x33, 0x33, 0, 0, 0, 1}
	allNodes     = netip.MustParseAddr("ff02::1")
)

// ethernet is a frame.
func ethernet(to, from net.HardwareAddr, kind uint16, payload []byte) []byte {
	frame := append(append([]byte{}, to...), from...)
	return append(binary.BigEndian.AppendUint16(frame, kind), payload...)
}

// arpClaim says that addr is at mac; operation 1 is a request, 2 a reply.
func arpClaim(mac net.HardwareAddr, addr netip.Addr, operation byte) []byte {
	packet := []byte{0, 1, 8, 0, 6, 4, 0, operation}
	packet = append(append(packet, mac...), addr.AsSlice()...)
	packet = append(append(packet, broadcastMAC...), addr.AsSlice()...)
	return ethernet(broadcastMAC, mac, unix.ETH_P_ARP, packet)
}

// neighbourAdvertisement says the same for IPv6, unasked and overriding.
func neighbourAdvertisement(mac net.HardwareAddr, addr netip.Addr) []byte {
	const router, override = 1 << 7, 1 << 5
	message := append([]byte{136, 0, 0, 0, router | override, 0, 0, 0}, addr.AsSlice()...)
	message = append(append(message, 2, 1), mac...) // target link-layer address
	return icmp6Frame(mac, addr, message)
}

// routerAdvertisement names mac's link-local address as default router and
// 2001:db8:bad::/64 as on-link, with addresses to be made up from it.
func routerAdvertisement(mac net.HardwareAddr) []byte {
	message := []byte{134, 0, 0, 0, 64, 0, 0xff, 0xff, 0, 0, 0, 0, 0, 0, 0, 0}
	message = append(append(message, 1, 1), mac...) // source link-layer address
	const onLink, autonomous = 1 << 7, 1 << 6
	forever := []byte{0xff, 0xff, 0xff, 0xff}
	message = append(message, 3, 4, 64, onLink|autonomous)
	message = append(append(append(message, forever...), forever...), 0, 0, 0, 0)
	prefix := netip.MustParseAddr("2001:db8:bad::").As16()
	return icmp6Frame(mac, linkLocal(mac), append(message, prefix[:]...))
}

// linkLocal is the address that an interface makes of its MAC (RFC 4291, appendix A).
func linkLocal(mac net.HardwareAddr) netip.Addr {
	return netip.AddrFrom16([16]byte{0xfe, 0x80, 8: mac[0] ^ 2, mac[1], mac[2], 0xff, 0xfe, mac[3], mac[4], mac[5]})
}

// icmp6Frame is an ICMPv6 message to all nodes.
func icmp6Frame(mac net.HardwareAddr, from netip.Addr, message []byte) []byte {
	to := allNodes
	pseudo := append(append([]byte{}, from.AsSlice()...), to.AsSlice()...)
	pseudo = binary.BigEndian.AppendUint32(pseudo, uint32(len(message)))
	pseudo = append(pseudo, 0, 0, 0, unix.IPPROTO_ICMPV6)
	binary.BigEndian.PutUint16(message[2:], checksum(append(pseudo, message...)))
	packet := make([]byte, 40, 40+len(message))
	packet[0], packet[6], packet[7] = 0x60, unix.IPPROTO_ICMPV6, 255
	binary.BigEndian.PutUint16(packet[4:], uint16(len(message)))
	copy(packet[8:], from.AsSlice())
	copy(packet[24:], to.AsSlice())
	return ethernet(allNodesMAC, mac, unix.ETH_P_IPV6, append(packet, message...))
}

// dhcpOffer is an acknowledged lease that nobody asked for.
func dhcpOffer(mac net.HardwareAddr) []byte {
	self, leased := []byte{192, 168, 65, 200}, []byte{192, 168, 65, 201}
	message := make([]byte, 240)
	message[0], message[1], message[2] = 2, 1, 6 // reply, Ethernet
	copy(message[16:], leased)
	copy(message[236:], []byte{99, 130, 83, 99})
	message = append(message, 53, 1, 5) // ACK
	for _, option := range []byte{54, 3, 6} {
		message = append(append(message, option, 4), self...)
	}
	message = append(message, 255)
	packet := udpPacket(netip.AddrPortFrom(netip.AddrFrom4([4]byte(self)), 67), netip.MustParseAddrPort("255.255.255.255:68"), bytes.Clone(message))
	return ethernet(broadcastMAC, mac, unix.ETH_P_IP, packet)
}
