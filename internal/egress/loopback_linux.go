package egress

import (
	"net/netip"
	"syscall"

	"golang.org/x/sys/unix"
)

// tuneLoopback is the net.Dialer's Control. Connections to the host's own
// loopback get congestion control without pacing: BBR, where it is the host's
// default, sets a timer for each segment and halves their speed. It must happen
// before the connection stands, because the kernel never ends pacing that has
// begun. Others keep the host's choice, as connections of any program would.
func tuneLoopback(_, address string, conn syscall.RawConn) error {
	addr, err := netip.ParseAddrPort(address)
	if err != nil || !addr.Addr().IsLoopback() {
		return nil
	}
	return conn.Control(func(fd uintptr) {
		_ = unix.SetsockoptString(int(fd), unix.IPPROTO_TCP, unix.TCP_CONGESTION, "reno") // an optimisation
	})
}
