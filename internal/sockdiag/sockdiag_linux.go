package sockdiag

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// States of include/net/tcp_states.h, as bits of Query.States.
const (
	Close  = 1 << 7 // an unconnected UDP socket
	Listen = 1 << 10
	// Held are those in which a socket has its port for itself: not TIME_WAIT (6),
	// nor a handshake that its listener has yet to accept (3 and 12).
	Held = 1<<12 - 1 - 1<<6 - 1<<3
)

// Query says which sockets.
type Query struct {
	Proto       uint8  // unix.IPPROTO_TCP or IPPROTO_UDP
	States      uint32 // the bits above
	First, Last uint16 // of the local ports, both included; Last 0 for all
}

// Socket is one socket.
type Socket struct {
	Addr      netip.AddrPort // local; IPv4 in its own form also where the socket is IPv6's
	Both      bool           // bound to ::, takes IPv4 as well
	Interface uint32         // that it is bound to, 0 for none
	Inode     uint32         // as in /proc/PID/fd
}

// Each calls use for each socket that q asks for, IPv4's first.
func Each(q Query, use func(Socket)) error {
	for _, family := range []uint8{unix.AF_INET, unix.AF_INET6} {
		request := nl.NewNetlinkRequest(nl.SOCK_DIAG_BY_FAMILY, unix.NLM_F_DUMP)
		request.AddData(question{q, family})
		if q.Last != 0 {
			request.AddData(nl.NewRtAttr(attrBytecode, portsWithin(q.First, q.Last)))
		}
		err := request.ExecuteIter(unix.NETLINK_INET_DIAG, nl.SOCK_DIAG_BY_FAMILY, func(message []byte) bool {
			if s, ok := parse(message); ok {
				use(s)
			}
			return true
		})
		if err != nil && !absent(err) {
			return fmt.Errorf("list sockets: %w", err)
		}
	}
	return nil
}

// absent reports a family or protocol that the kernel has not.
func absent(err error) bool { return errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EAFNOSUPPORT) }

// question is struct inet_diag_req_v2 of linux/inet_diag.h.
type question struct {
	Query
	family uint8
}

const questionLen = 56

func (q question) Len() int { return questionLen }

func (q question) Serialize() []byte {
	b := make([]byte, questionLen)
	b[0], b[1] = q.family, q.Proto
	binary.NativeEndian.PutUint32(b[4:], q.States)
	return b
}

// Codes of linux/inet_diag.h.
const (
	attrBytecode = 1 // INET_DIAG_REQ_BYTECODE
	portAtLeast  = 2 // INET_DIAG_BC_S_GE
	portAtMost   = 3 // INET_DIAG_BC_S_LE
)

// portsWithin is a program for inet_diag_bc_run of net/ipv4/inet_diag.c: each step
// is struct inet_diag_bc_op, and the port in the last field of another one. It says
// how far to go on when it holds, and when it does not: to the very end takes the
// socket, four bytes beyond leaves it out.
func portsWithin(first, last uint16) []byte {
	const step, beyond = 8, 4
	b := make([]byte, 2*step)
	for i, s := range []struct {
		code uint8
		port uint16
	}{{portAtLeast, first}, {portAtMost, last}} {
		at := b[i*step:]
		at[0], at[1] = s.code, step
		binary.NativeEndian.PutUint16(at[2:], uint16(len(at)+beyond))
		binary.NativeEndian.PutUint16(at[6:], s.port)
	}
	return b
}

// Offsets in struct inet_diag_msg of linux/inet_diag.h.
const (
	atPort       = 4
	atSource     = 8
	atInterface  = 40
	atInode      = 68
	answerLen    = 72
	attrV6Only   = 11 // INET_DIAG_SKV6ONLY
	attrTypeMask = 0x3fff
)

// parse reads one message; false for what is no bound socket of IPv4 or IPv6.
func parse(m []byte) (Socket, bool) {
	if len(m) < answerLen {
		return Socket{}, false
	}
	var addr netip.Addr
	switch m[0] {
	case unix.AF_INET:
		addr = netip.AddrFrom4([4]byte(m[atSource:]))
	case unix.AF_INET6:
		addr = netip.AddrFrom16([16]byte(m[atSource:]))
	default:
		return Socket{}, false
	}
	port := binary.BigEndian.Uint16(m[atPort:])
	return Socket{
		Addr:      netip.AddrPortFrom(addr.Unmap(), port),
		Both:      addr == netip.IPv6Unspecified() && !only6(m[answerLen:]),
		Interface: binary.NativeEndian.Uint32(m[atInterface:]),
		Inode:     binary.NativeEndian.Uint32(m[atInode:]),
	}, port != 0
}

// only6 looks for INET_DIAG_SKV6ONLY among the attributes.
func only6(attrs []byte) bool {
	for len(attrs) >= unix.SizeofNlAttr {
		size, kind := int(binary.NativeEndian.Uint16(attrs)), binary.NativeEndian.Uint16(attrs[2:])
		if size < unix.SizeofNlAttr || size > len(attrs) {
			return false
		}
		if kind&attrTypeMask == attrV6Only && size > unix.SizeofNlAttr {
			return attrs[unix.SizeofNlAttr] != 0
		}
		attrs = attrs[min((size+3)&^3, len(attrs)):]
	}
	return false
}
