package relay

import (
	"testing"

	"golang.org/x/sys/unix"
)

// extendedError is the control message of a refused datagram (ip(7)).
func extendedError(errno byte) []byte {
	control := make([]byte, unix.CmsgSpace(16))
	control[0], control[8], control[12] = byte(unix.CmsgLen(16)), unix.IPPROTO_IP, unix.IP_RECVERR
	control[16], control[20] = errno, unix.SO_EE_ORIGIN_ICMP
	return control
}

func FuzzParseReason(f *testing.F) {
	f.Add(extendedError(byte(unix.ECONNREFUSED)))
	f.Add(append(extendedError(byte(unix.EMSGSIZE)), extendedError(byte(unix.EHOSTUNREACH))...))
	f.Add(extendedError(0)[:20])
	f.Fuzz(func(t *testing.T, control []byte) {
		if reason := parseReason(control); reason == unix.EMSGSIZE {
			t.Errorf("parseReason(%x) = %v", control, reason)
		}
	})
}

// The seeds of FuzzParseReason are what they are meant to be.
func TestParseReason(t *testing.T) {
	if got := parseReason(append(extendedError(byte(unix.EMSGSIZE)), extendedError(byte(unix.EHOSTUNREACH))...)); got != unix.EHOSTUNREACH {
		t.Errorf("parseReason = %v", got)
	}
}

// FuzzParseEcho reads what arrives on ping sockets of each kind.
func FuzzParseEcho(f *testing.F) {
	f.Add([]byte{0, 0, 0, 0, 0, 7, 0, 9, 'x'})
	f.Add([]byte{129, 0, 0, 0, 0, 7, 0, 9})
	f.Add(append([]byte{0x45}, make([]byte, 40)...))
	f.Add([]byte{0x4f})
	f.Fuzz(func(t *testing.T, packet []byte) {
		for _, p := range []pingSocket{{}, {six: true}, {raw: true, id: 7}, {six: true, raw: true, id: 7}} {
			_, data, ok := p.parse(p.strip(packet), echoReply4, echoReply6)
			if len(data) > len(packet) || !ok && data != nil {
				t.Errorf("%+v reads %x as %x, %v", p, packet, data, ok)
			}
		}
	})
}
