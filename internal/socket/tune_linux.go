package socket

import (
	"time"

	"golang.org/x/sys/unix"
)

// Keep-alive asks an idle peer often enough that home routers and VPN gateways
// keep their state (most drop it after five minutes or more), and ends a flow
// only after eleven minutes without an answer, as Linux does by default: a
// laptop that slept or changed its network shortly loses nothing.
const (
	keepAliveIdle     = 2 * time.Minute
	keepAliveInterval = 75 * time.Second
	keepAliveCount    = 9
)

// notSent bounds what the kernel queues unsent for a peer that reads slowly
// (tcp(7), TCP_NOTSENT_LOWAT). It is more than a relay moves at a time, so that a
// bulk transfer always has something to send.
const notSent = 512 << 10

type option struct{ level, name, value int }

// Every relayed connection gets these. Where the kernel refuses, it is carried all
// the same.
var (
	inherited = [...]option{
		{unix.IPPROTO_TCP, unix.TCP_NODELAY, 1},
		{unix.IPPROTO_TCP, unix.TCP_KEEPIDLE, int(keepAliveIdle / time.Second)},
		{unix.IPPROTO_TCP, unix.TCP_KEEPINTVL, int(keepAliveInterval / time.Second)},
		{unix.IPPROTO_TCP, unix.TCP_KEEPCNT, keepAliveCount},
		{unix.SOL_SOCKET, unix.SO_KEEPALIVE, 1},
	}
	notInherited = [...]option{
		{unix.IPPROTO_TCP, unix.TCP_NOTSENT_LOWAT, notSent},
		// Urgent data goes on as what nearly all programs take it for: a byte of the stream.
		{unix.SOL_SOCKET, unix.SO_OOBINLINE, 1},
	}
)

// TuneListener sets what the connections of a listener inherit.
func TuneListener(fd int) { set(fd, inherited[:]) }

// Tune sets what a relayed connection needs.
func Tune(fd int) {
	set(fd, inherited[:])
	set(fd, notInherited[:])
}

// Tune is Tune without what the connection has inherited. It fails on a closed one
// only.
func (s *TCP) Tune() error {
	if s.accepted {
		return s.Control(func(fd int) { set(fd, notInherited[:]) })
	}
	return s.Control(Tune)
}

func set(fd int, options []option) {
	for _, o := range options {
		_ = unix.SetsockoptInt(fd, o.level, o.name, o.value)
	}
}
