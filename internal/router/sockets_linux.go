package router

import (
	"errors"
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"
)

var (
	loopback4 = netip.AddrFrom4([4]byte{127, 0, 0, 1})
	loopback6 = netip.IPv6Loopback()
)

// kind is a family and protocol of sockets, as the hand-over names them.
type kind string

const (
	tcp4 kind = "tcp4"
	tcp6 kind = "tcp6"
	udp4 kind = "udp4"
	udp6 kind = "udp6"
)

// listenerKinds is the order in which listeners are handed over.
var listenerKinds = [...]kind{tcp4, tcp6, udp4, udp6}

func (k kind) valid() bool { return k == tcp4 || k == tcp6 || k == udp4 || k == udp6 }
func (k kind) v6() bool    { return k == tcp6 || k == udp6 }
func (k kind) tcp() bool   { return k == tcp4 || k == tcp6 }

// kindFor returns the kind that reaches addr.
func kindFor(tcp bool, addr netip.Addr) kind {
	switch {
	case tcp && addr.Is6():
		return tcp6
	case tcp:
		return tcp4
	case addr.Is6():
		return udp6
	}
	return udp4
}

const (
	// acceptBacklog is what the kernel's default of net.core.somaxconn allows.
	acceptBacklog = 4096
	// udpBuffer holds a burst of about 60 of the largest datagrams.
	udpBuffer = 4 << 20
)

// option is one setsockopt with an integer.
type option struct{ level, name, value int }

// options are those of every socket of a kind. The sockets are plain TCP, never
// MPTCP, because socket(2) says so.
func (k kind) options() []option {
	opts := []option{{unix.SOL_SOCKET, unix.SO_REUSEADDR, 1}}
	if k.v6() {
		opts = append(opts,
			option{unix.SOL_IPV6, unix.IPV6_V6ONLY, 1},
			option{unix.SOL_IPV6, unix.IPV6_TRANSPARENT, 1})
	} else {
		opts = append(opts, option{unix.SOL_IP, unix.IP_TRANSPARENT, 1})
	}
	switch k {
	case tcp4, tcp6:
		// The port is chosen at connect, for the whole four-tuple.
		opts = append(opts, option{unix.SOL_IP, unix.IP_BIND_ADDRESS_NO_PORT, 1})
	case udp4:
		opts = append(opts, option{unix.SOL_IP, unix.IP_MTU_DISCOVER, unix.IP_PMTUDISC_DONT})
	case udp6:
		opts = append(opts,
			option{unix.SOL_IPV6, unix.IPV6_MTU_DISCOVER, unix.IPV6_PMTUDISC_DONT},
			// Not IPV6_MTU: the kernel heeds it only above the route's MTU.
			option{unix.SOL_SOCKET, unix.SO_MARK, markUDP6})
	}
	return opts
}

// openSocket makes an unconnected transparent socket in this namespace.
func openSocket(k kind) (int, error) {
	domain, typ := unix.AF_INET, unix.SOCK_DGRAM
	if k.v6() {
		domain = unix.AF_INET6
	}
	if k.tcp() {
		typ = unix.SOCK_STREAM
	}
	fd, err := unix.Socket(domain, typ|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return -1, fmt.Errorf("make %s socket: %w", k, err)
	}
	if err := setOptions(fd, k.options()); err != nil {
		return -1, errors.Join(fmt.Errorf("prepare %s socket: %w", k, err), unix.Close(fd))
	}
	return fd, nil
}

func setOptions(fd int, opts []option) error {
	for _, o := range opts {
		if err := unix.SetsockoptInt(fd, o.level, o.name, o.value); err != nil {
			return fmt.Errorf("set option %d of level %d: %w", o.name, o.level, err)
		}
	}
	return nil
}

// openListener makes the socket that TPROXY sends a kind's flows to.
func openListener(k kind) (int, error) {
	fd, err := openSocket(k)
	if err != nil {
		return -1, err
	}
	if err := listen(fd, k); err != nil {
		return -1, errors.Join(fmt.Errorf("listen for %s on port %d: %w", k, proxyPort, err), unix.Close(fd))
	}
	return fd, nil
}

func listen(fd int, k kind) error {
	addr := loopback4
	if k.v6() {
		addr = loopback6
	}
	if err := unix.Bind(fd, sockaddr(netip.AddrPortFrom(addr, proxyPort))); err != nil {
		return err
	}
	if k.tcp() {
		return unix.Listen(fd, acceptBacklog)
	}
	level, name := unix.SOL_IP, unix.IP_RECVORIGDSTADDR
	if k.v6() {
		level, name = unix.SOL_IPV6, unix.IPV6_RECVORIGDSTADDR
	}
	if err := unix.SetsockoptInt(fd, level, name, 1); err != nil {
		return err
	}
	// Beyond net.core.rmem_max only real root may go.
	if unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, udpBuffer) == nil {
		return nil
	}
	return unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, udpBuffer)
}

func sockaddr(ap netip.AddrPort) unix.Sockaddr {
	if ap.Addr().Is4() {
		return &unix.SockaddrInet4{Port: int(ap.Port()), Addr: ap.Addr().As4()}
	}
	return &unix.SockaddrInet6{Port: int(ap.Port()), Addr: ap.Addr().As16()}
}
