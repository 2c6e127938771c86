package router

import (
	"encoding/binary"
	"testing"
	"time"
)

// FuzzReassemble reads packets, each after its length in two bytes, as a
// container may send them into slow0, and feeds them to one reassembler.
func FuzzReassemble(f *testing.F) {
	for _, pair := range pairs {
		var stream []byte
		for _, p := range split(pair[0].Addr(), pair[1].Addr(), protoUDP, make([]byte, 4000), 1500, 7) {
			stream = append(binary.BigEndian.AppendUint16(stream, uint16(len(p))), p...)
		}
		f.Add(stream)
	}
	f.Fuzz(func(t *testing.T, stream []byte) {
		var r reassembler
		now := time.Unix(0, 0)
		for len(stream) >= 2 {
			size := min(int(binary.BigEndian.Uint16(stream)), len(stream)-2)
			p, ok := parsePacket(stream[2 : 2+size])
			stream = stream[2+size:]
			if !ok {
				continue
			}
			whole, ok := r.add(p, now)
			if len(r.partials) > maxReassembly {
				t.Fatalf("%d packets in pieces", len(r.partials))
			}
			if !ok {
				continue
			}
			if !whole.frag.whole() || len(whole.raw) > maxPacket+header6 {
				t.Fatalf("reassembled to %d bytes, fragment %+v", len(whole.raw), whole.frag)
			}
			if !p.frag.whole() {
				again, ok := parsePacket(whole.raw)
				if !ok || again.src != p.src || again.dst != p.dst || !again.frag.whole() && again.proto == whole.proto {
					t.Fatalf("the reassembled packet parses as %+v, %v", again, ok)
				}
			}
		}
	})
}
