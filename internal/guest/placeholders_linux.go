package guest

import (
	"errors"
	"fmt"
	"log/slog"

	"golang.org/x/sys/unix"

	"github.com/portolan-net/portolan/internal/portolan"
)

// placeholders are sockets, by the port that each keeps from the engine's own
// bind. Nothing reaches them: they are bound to the link's interface too, over
// which nobody asks for these ports, and drop what arrives; programs of the
// machine find the port closed.
type placeholders map[portolan.Port]int

// hold makes p hold these ports and no others. One that a program of the machine
// has already needs no placeholder.
func (p placeholders) hold(ports []portolan.Port, log *slog.Logger) {
	wanted := make(map[portolan.Port]bool, len(ports))
	for _, port := range ports {
		wanted[port] = true
	}
	for port, fd := range p {
		if !wanted[port] {
			_ = unix.Close(fd)
			delete(p, port)
		}
	}
	for port := range wanted {
		if _, held := p[port]; held {
			continue
		}
		fd, err := placeholder(port)
		if err == nil {
			p[port] = fd
		} else if !errors.Is(err, unix.EADDRINUSE) {
			log.Warn("no placeholder for a port of the host", "port", port, "error", err)
		}
	}
}

// placeholder makes one. A listening socket is in the way of another whatever
// options both have (inet_csk_bind_conflict in net/ipv4).
func placeholder(port portolan.Port) (_ int, err error) {
	domain, kind, at := unix.AF_INET, unix.SOCK_STREAM, port.Host
	var addr unix.Sockaddr
	if at.Addr().Is4() {
		addr = &unix.SockaddrInet4{Port: int(at.Port()), Addr: at.Addr().As4()}
	} else {
		domain = unix.AF_INET6
		addr = &unix.SockaddrInet6{Port: int(at.Port()), Addr: at.Addr().As16()}
	}
	if port.Proto == portolan.UDP {
		kind = unix.SOCK_DGRAM
	}
	fd, err := unix.Socket(domain, kind|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return -1, fmt.Errorf("open socket: %w", err)
	}
	defer func() {
		if err != nil {
			_ = unix.Close(fd)
		}
	}()
	if domain == unix.AF_INET6 {
		if err := unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, 1); err != nil {
			return -1, fmt.Errorf("set IPV6_V6ONLY: %w", err)
		}
	}
	// For addresses that only the host has; it counts for IPv6 as well.
	if err := unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_FREEBIND, 1); err != nil {
		return -1, fmt.Errorf("set IP_FREEBIND: %w", err)
	}
	drop := []unix.SockFilter{{Code: unix.BPF_RET | unix.BPF_K}} // no byte of any packet
	if err := unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &unix.SockFprog{Len: 1, Filter: &drop[0]}); err != nil {
		return -1, fmt.Errorf("set SO_ATTACH_FILTER: %w", err)
	}
	if err := unix.BindToDevice(fd, linkName); err != nil {
		return -1, fmt.Errorf("set SO_BINDTODEVICE: %w", err)
	}
	if err := unix.Bind(fd, addr); err != nil {
		return -1, fmt.Errorf("bind: %w", err)
	}
	if port.Proto == portolan.TCP {
		if err := unix.Listen(fd, 0); err != nil {
			return -1, fmt.Errorf("listen: %w", err)
		}
	}
	return fd, nil
}
