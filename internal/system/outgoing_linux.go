package system

import (
	"os"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// kernelPorts reads net.ipv4.ip_local_port_range, which counts for IPv6 too.
func kernelPorts() PortRange {
	text, err := os.ReadFile("/proc/sys/net/ipv4/ip_local_port_range")
	words := strings.Fields(string(text))
	if err != nil || len(words) != 2 {
		return PortRange{}
	}
	first, firstErr := strconv.ParseUint(words[0], 10, 16)
	last, lastErr := strconv.ParseUint(words[1], 10, 16)
	if firstErr != nil || lastErr != nil {
		return PortRange{}
	}
	return PortRange{uint16(first), uint16(last)}
}

// localPortRange is IP_LOCAL_PORT_RANGE of linux/in.h: the lower bound in the
// lower half, the upper one in the upper half. Kernels before 6.3 do not have it.
const localPortRange = 51

// Control is a net.Dialer's or net.ListenConfig's Control.
func (o *Outgoing) Control(_, _ string, conn syscall.RawConn) error {
	return conn.Control(func(fd uintptr) { o.Apply(int(fd)) })
}

// Apply prepares a socket that has no port yet.
func (o *Outgoing) Apply(fd int) {
	if ports := o.choice(); ports.Size() > 0 {
		// Where the kernel refuses, a port of the range may be taken: rare.
		_ = unix.SetsockoptInt(fd, unix.IPPROTO_IP, localPortRange, int(uint32(ports.Last)<<16|uint32(ports.First)))
	}
}
