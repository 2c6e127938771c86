package forward

import (
	"net"
	"testing"

	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"
)

// FuzzParseControl reads control messages of datagrams: what is taken for a
// local address must be one that a reply can leave from.
func FuzzParseControl(f *testing.F) {
	f.Add((&ipv4.ControlMessage{Src: net.IPv4(192, 0, 2, 1), IfIndex: 1}).Marshal())
	f.Add((&ipv6.ControlMessage{Src: net.ParseIP("fe80::1"), IfIndex: 2}).Marshal())
	f.Add([]byte{16, 0, 0, 0, 0, 0, 0, 0})
	f.Fuzz(func(t *testing.T, oob []byte) {
		for _, key := range []sessionKey{parse4(oob), parse6(oob)} {
			if !key.local.IsValid() {
				continue
			}
			if key.local.IsMulticast() || key.local.IsUnspecified() || key.local.Is4In6() {
				t.Errorf("%x leads to %+v", oob, key)
			}
			if len(key.controlMessage()) == 0 {
				t.Errorf("%+v has no control message", key)
			}
		}
	})
}
