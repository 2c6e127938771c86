package socks

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/netip"
)

// The protocol's numbers (RFC 1928, sections 3 to 6).
const (
	version = 5

	methodNone = 0x00 // no authentication
	methodBad  = 0xff

	commandConnect   = 1
	commandAssociate = 3

	typeV4   = 1
	typeName = 3
	typeV6   = 4

	replyOK          = 0
	replyFailed      = 1
	replyNotAllowed  = 2
	replyNetwork     = 3
	replyHost        = 4
	replyRefused     = 5
	replyCommand     = 7
	replyAddressType = 8
)

// errAddressType is answered with replyAddressType.
var errAddressType = errors.New("unknown address type")

// target is a destination as the client wrote it: a name, or an address.
type target struct {
	name string
	addr netip.Addr // not valid for a name
	port uint16
}

// readGreeting reads the client's methods and reports whether one is none.
func readGreeting(r io.Reader) (plain bool, err error) {
	var head [2]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return false, err
	}
	if head[0] != version {
		return false, fmt.Errorf("version %d, want 5", head[0])
	}
	methods := make([]byte, head[1])
	if _, err := io.ReadFull(r, methods); err != nil {
		return false, err
	}
	for _, m := range methods {
		plain = plain || m == methodNone
	}
	return plain, nil
}

// readRequest reads a command and its destination, and no byte more.
func readRequest(r io.Reader) (command byte, to target, err error) {
	var head [3]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return 0, to, err
	}
	if head[0] != version {
		return 0, to, fmt.Errorf("version %d, want 5", head[0])
	}
	to, err = readTarget(r)
	return head[1], to, err
}

// readTarget reads an address type, an address and a port.
func readTarget(r io.Reader) (to target, err error) {
	var kind, size [1]byte
	if _, err := io.ReadFull(r, kind[:]); err != nil {
		return to, err
	}
	switch kind[0] {
	case typeV4:
		size[0] = 4
	case typeV6:
		size[0] = 16
	case typeName:
		if _, err := io.ReadFull(r, size[:]); err != nil {
			return to, err
		}
	default:
		return to, errAddressType
	}
	rest := make([]byte, int(size[0])+2)
	if _, err := io.ReadFull(r, rest); err != nil {
		return to, err
	}
	host := rest[:size[0]]
	to.port = binary.BigEndian.Uint16(rest[size[0]:])
	if kind[0] != typeName {
		addr, _ := netip.AddrFromSlice(host) // 4 or 16 bytes
		to.addr = addr.Unmap()
		return to, nil
	}
	if addr, err := netip.ParseAddr(string(host)); err == nil && addr.Zone() == "" {
		to.addr = addr.Unmap() // some clients write addresses as names
		return to, nil
	}
	to.name = string(host)
	return to, nil
}

// appendAddr appends an address type, an address and a port.
func appendAddr(b []byte, at netip.AddrPort) []byte {
	addr := at.Addr().Unmap()
	if addr.Is6() {
		b = append(b, typeV6)
	} else {
		b = append(b, typeV4)
	}
	if !addr.IsValid() {
		addr = netip.IPv4Unspecified()
	}
	b = append(b, addr.AsSlice()...)
	return binary.BigEndian.AppendUint16(b, at.Port())
}

// reply is the answer to a request.
func reply(code byte, bound netip.AddrPort) []byte {
	return appendAddr([]byte{version, code, 0}, bound)
}
