package lab

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"os"
	"sync"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/net/icmp"
	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"
	"golang.org/x/sys/unix"
)

// The gateway's refusals. Packets to the refused addresses are routed into a
// TUN of the gateway, whose reader writes the ICMP error. Netfilter's reject
// and unreachable routes answer while the sender's connect still owns its
// socket, for nothing here takes time; Linux then does not take the error as
// the connection's end until the SYN is sent again a second later.
const (
	refuserName  = "refuse0"
	refusalDelay = time.Millisecond
)

// refusal is a pair of ICMP destination unreachable codes.
type refusal struct {
	v4, v6 string // the addresses
	c4, c6 int    // the codes; below zero for no answer
}

func refusals() []refusal {
	return []refusal{
		{NetUnreachableV4, NetUnreachableV6, 0, 0},
		{ProhibitedV4, ProhibitedV6, 13, 1},
		{HostUnreachableV4, HostUnreachableV6, 1, 3},
		{BlackHoleV4, BlackHoleV6, -1, -1},
	}
}

// refuser reads what the gateway refuses.
type refuser struct {
	tun   *os.File
	codes map[netip.Addr]int
	wg    sync.WaitGroup
}

// startRefuser makes the TUN and the routes into it.
func startRefuser(gateway *Node) (r *refuser, err error) {
	r = &refuser{codes: map[netip.Addr]int{}}
	if err := gateway.Do(func() (err error) { r.tun, err = openTUN(refuserName); return err }); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			r.tun.Close()
		}
	}()
	// The errors come in with an address of the gateway as their source.
	if err := gateway.setSysctls(
		"net/ipv4/conf/all/rp_filter=0", "net/ipv4/conf/"+refuserName+"/rp_filter=0",
		"net/ipv4/conf/"+refuserName+"/accept_local=1",
	); err != nil {
		return nil, err
	}
	if err := gateway.up(refuserName); err != nil {
		return nil, err
	}
	link, err := gateway.nl.LinkByName(refuserName)
	if err != nil {
		return nil, fmt.Errorf("find %s: %w", refuserName, err)
	}
	for _, x := range refusals() {
		r.codes[netip.MustParseAddr(x.v4)], r.codes[netip.MustParseAddr(x.v6)] = x.c4, x.c6
	}
	for addr := range r.codes {
		dst := &net.IPNet{IP: addr.AsSlice(), Mask: net.CIDRMask(addr.BitLen(), addr.BitLen())}
		if err := gateway.nl.RouteAdd(&netlink.Route{LinkIndex: link.Attrs().Index, Dst: dst}); err != nil {
			return nil, fmt.Errorf("add route to %s: %w", addr, err)
		}
	}
	r.wg.Go(r.serve)
	return r, nil
}

func openTUN(name string) (*os.File, error) {
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("open /dev/net/tun: %w", err)
	}
	req, err := unix.NewIfreq(name)
	if err == nil {
		req.SetUint16(unix.IFF_TUN | unix.IFF_NO_PI)
		err = unix.IoctlIfreq(fd, unix.TUNSETIFF, req)
	}
	if err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("make TUN %s: %w", name, err)
	}
	return os.NewFile(uintptr(fd), "/dev/net/tun"), nil
}

func (r *refuser) close() {
	r.tun.Close()
	r.wg.Wait()
}

// serve ends when the TUN is closed.
func (r *refuser) serve() {
	buf := make([]byte, 1<<16)
	for {
		n, err := r.tun.Read(buf)
		if err != nil {
			return
		}
		if answer := r.refuse(buf[:n]); answer != nil {
			time.Sleep(refusalDelay)
			_, _ = r.tun.Write(answer) // the asker may have gone with its link
		}
	}
}

// refuse returns the ICMP error for a packet, nil for none.
func (r *refuser) refuse(packet []byte) []byte {
	switch {
	case len(packet) >= ipv4.HeaderLen && packet[0]>>4 == ipv4.Version:
		if code, ok := r.codes[netip.AddrFrom4([4]byte(packet[16:20]))]; ok && code >= 0 {
			return unreachable4(code, packet)
		}
	case len(packet) >= ipv6.HeaderLen && packet[0]>>4 == ipv6.Version:
		if code, ok := r.codes[netip.AddrFrom16([16]byte(packet[24:40]))]; ok && code >= 0 {
			return unreachable6(code, packet)
		}
	}
	return nil
}

// The largest ICMP errors: RFC 1812, section 4.3.2.3, and RFC 4443, section 2.4.
const (
	maxError4 = 576
	maxError6 = 1280
)

const icmpHeaderLen = 8

func unreachable4(code int, packet []byte) []byte {
	quote := packet[:min(len(packet), maxError4-ipv4.HeaderLen-icmpHeaderLen)]
	msg := icmp.Message{Type: ipv4.ICMPTypeDestinationUnreachable, Code: code, Body: &icmp.DstUnreach{Data: quote}}
	body, err := msg.Marshal(nil)
	if err != nil {
		return nil
	}
	head := make([]byte, ipv4.HeaderLen)
	head[0] = ipv4.Version<<4 | ipv4.HeaderLen/4
	binary.BigEndian.PutUint16(head[2:], uint16(ipv4.HeaderLen+len(body)))
	head[8], head[9] = 64, unix.IPPROTO_ICMP
	copy(head[12:16], netip.MustParseAddr(GatewayV4).AsSlice())
	copy(head[16:20], packet[12:16])
	binary.BigEndian.PutUint16(head[10:], checksum(head))
	return append(head, body...)
}

func unreachable6(code int, packet []byte) []byte {
	quote := packet[:min(len(packet), maxError6-ipv6.HeaderLen-icmpHeaderLen)]
	src, dst := net.ParseIP(GatewayV6), net.IP(packet[8:24])
	msg := icmp.Message{Type: ipv6.ICMPTypeDestinationUnreachable, Code: code, Body: &icmp.DstUnreach{Data: quote}}
	body, err := msg.Marshal(icmp.IPv6PseudoHeader(src, dst))
	if err != nil {
		return nil
	}
	head := make([]byte, ipv6.HeaderLen)
	head[0] = ipv6.Version << 4
	binary.BigEndian.PutUint16(head[4:], uint16(len(body)))
	head[6], head[7] = unix.IPPROTO_ICMPV6, 64
	copy(head[8:24], src)
	copy(head[24:40], dst)
	return append(head, body...)
}

// checksum is that of RFC 1071, over an even number of bytes.
func checksum(b []byte) uint16 {
	var sum uint32
	for i := 0; i < len(b); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(b[i:]))
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}
