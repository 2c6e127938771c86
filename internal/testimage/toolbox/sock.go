//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// dialer dials from an address of the caller's choice ("" or an IP with or
// without port) and has the kernel report every ICMP error on UDP sockets, not
// only port unreachable (ip(7), IP_RECVERR).
func dialer(network, from string) (*net.Dialer, error) {
	d := &net.Dialer{ControlContext: func(_ context.Context, network, _ string, raw syscall.RawConn) error {
		if !strings.HasPrefix(network, "udp") {
			return nil
		}
		return control(raw, func(fd int) error {
			return errors.Join(unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_RECVERR, 1), ifV6(network,
				func() error { return unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_RECVERR, 1) }))
		})
	}}
	d.SetMultipathTCP(false)
	if from == "" {
		return d, nil
	}
	source, err := netip.ParseAddrPort(from)
	if err != nil {
		addr, err := netip.ParseAddr(from)
		if err != nil {
			return nil, fmt.Errorf("parse -from %s: want IP or IP:PORT", from)
		}
		source = netip.AddrPortFrom(addr, 0)
	}
	if strings.HasPrefix(network, "udp") {
		d.LocalAddr = net.UDPAddrFromAddrPort(source)
	} else {
		d.LocalAddr = net.TCPAddrFromAddrPort(source)
	}
	return d, nil
}

// listenUDP opens a socket that tells to which address a datagram came, so that
// the answer can leave from there.
func listenUDP(ctx context.Context, addr string) (*net.UDPConn, error) {
	config := net.ListenConfig{Control: func(network, _ string, raw syscall.RawConn) error {
		return control(raw, func(fd int) error {
			return errors.Join(unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_PKTINFO, 1), ifV6(network,
				func() error { return unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_RECVPKTINFO, 1) }))
		})
	}}
	conn, err := config.ListenPacket(ctx, "udp", addr)
	if err != nil {
		return nil, err
	}
	udp, ok := conn.(*net.UDPConn)
	if !ok {
		return nil, fmt.Errorf("listen on %s: not a UDP socket", addr)
	}
	_ = udp.SetReadBuffer(4 << 20)
	return udp, nil
}

// replySource turns the control message of a received datagram into the one
// that sends the answer from the address which was asked.
func replySource(oob []byte) []byte {
	messages, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return nil
	}
	for _, m := range messages {
		switch {
		case m.Header.Level == unix.IPPROTO_IPV6 && m.Header.Type == unix.IPV6_PKTINFO && len(m.Data) >= unix.SizeofInet6Pktinfo:
			info := &unix.Inet6Pktinfo{Addr: [16]byte(m.Data[:16])}
			if addr := netip.AddrFrom16(info.Addr); addr.Is4In6() {
				return unix.PktInfo4(&unix.Inet4Pktinfo{Spec_dst: addr.Unmap().As4()})
			}
			return unix.PktInfo6(info)
		case m.Header.Level == unix.IPPROTO_IP && m.Header.Type == unix.IP_PKTINFO && len(m.Data) >= unix.SizeofInet4Pktinfo:
			// struct in_pktinfo: interface, local address, destination of the datagram.
			return unix.PktInfo4(&unix.Inet4Pktinfo{Spec_dst: [4]byte(m.Data[4:8])})
		}
	}
	return nil
}

// control runs f on a socket's descriptor.
func control(raw syscall.RawConn, f func(fd int) error) error {
	var err error
	if controlErr := raw.Control(func(fd uintptr) { err = f(int(fd)) }); controlErr != nil {
		return controlErr
	}
	return err
}

// ifV6 runs f unless network is one of IPv4 only.
func ifV6(network string, f func() error) error {
	if strings.HasSuffix(network, "4") {
		return nil
	}
	return f()
}
