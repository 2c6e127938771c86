package hostnet

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/portolan-net/portolan/internal/portolan"
)

// Socket is one socket that waits for others.
type Socket struct {
	portolan.Listener
	Both  bool   // bound to ::, takes IPv4 as well
	Inode uint32 // as in /proc/PID/fd
}

// Listeners are the ports that the socket holds: one, or one of each family.
func (s Socket) Listeners() []portolan.Listener {
	if !s.Both {
		return []portolan.Listener{s.Listener}
	}
	v4 := s.Listener
	v4.Addr = netip.AddrPortFrom(netip.IPv4Unspecified(), v4.Addr.Port())
	return []portolan.Listener{v4, s.Listener}
}

// Sockets lists the listening TCP sockets and the bound, unconnected UDP sockets
// of this process's network. Those that are bound to one interface are left out.
func Sockets() ([]Socket, error) {
	var found []Socket
	for _, proto := range []portolan.Proto{portolan.TCP, portolan.UDP} {
		for _, family := range []uint8{unix.AF_INET, unix.AF_INET6} {
			request := nl.NewNetlinkRequest(nl.SOCK_DIAG_BY_FAMILY, unix.NLM_F_DUMP)
			request.AddData(question{family: family, proto: proto})
			err := request.ExecuteIter(unix.NETLINK_INET_DIAG, nl.SOCK_DIAG_BY_FAMILY, func(message []byte) bool {
				if s, ok := parseSocket(message, proto); ok {
					found = append(found, s)
				}
				return true
			})
			if err != nil && !absent(err) {
				return nil, fmt.Errorf("list %s sockets: %w", proto, err)
			}
		}
	}
	return found, nil
}

// absent reports a family that the kernel has not.
func absent(err error) bool { return errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EAFNOSUPPORT) }

// question is struct inet_diag_req_v2 of linux/inet_diag.h.
type question struct {
	family uint8
	proto  portolan.Proto
}

const questionLen = 56

// States of include/net/tcp_states.h; an unconnected UDP socket is closed.
const (
	stateClose  = 7
	stateListen = 10
)

func (q question) Len() int { return questionLen }

func (q question) Serialize() []byte {
	b := make([]byte, questionLen)
	state := stateListen
	if q.proto == portolan.UDP {
		state = stateClose
	}
	b[0], b[1] = q.family, uint8(q.proto)
	binary.NativeEndian.PutUint32(b[4:], 1<<state)
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

// parseSocket reads one message; false for what is no socket of interest.
func parseSocket(m []byte, proto portolan.Proto) (Socket, bool) {
	if len(m) < answerLen || binary.NativeEndian.Uint32(m[atInterface:]) != 0 {
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
	if port == 0 || addr.IsMulticast() || addr.IsLinkLocalUnicast() {
		return Socket{}, false
	}
	s := Socket{Inode: binary.NativeEndian.Uint32(m[atInode:])}
	s.Proto, s.Addr = proto, netip.AddrPortFrom(addr.Unmap(), port)
	s.Both = addr == netip.IPv6Unspecified() && !only6(m[answerLen:])
	return s, true
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
