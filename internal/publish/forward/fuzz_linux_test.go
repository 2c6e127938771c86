package forward

import (
	"net"
	"testing"

	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"
	"golang.org/x/sys/unix"
)

// FuzzParseControl reads control messages of datagrams: what is taken for a
// local address must be one that a reply can leave from.
func FuzzParseControl(f *testing.F) {
	f.Add((&ipv4.ControlMessage{Src: net.IPv4(192, 0, 2, 1), IfIndex: 1}).Marshal()[unix.CmsgLen(0):])
	f.Add((&ipv6.ControlMessage{Src: net.ParseIP("fe80::1"), IfIndex: 2}).Marshal()[unix.CmsgLen(0):])
	f.Add([]byte{16, 0, 0, 0, 0, 0, 0, 0})
	f.Fuzz(func(t *testing.T, data []byte) {
		for _, key := range []sessionKey{localKey(unix.SOL_IP, unix.IP_PKTINFO, data), localKey(unix.SOL_IPV6, unix.IPV6_PKTINFO, data)} {
			if !key.local.IsValid() {
				continue
			}
			if key.local.IsMulticast() || key.local.IsUnspecified() || key.local.Is4In6() {
				t.Errorf("%x leads to %+v", data, key)
			}
			if len(key.controlMessage()) == 0 {
				t.Errorf("%+v has no control message", key)
			}
		}
	})
}
