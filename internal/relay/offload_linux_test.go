package relay

import (
	"bytes"
	"errors"
	"syscall"
	"testing"

	"github.com/portolan-net/portolan/internal/mmsg"
)

// Datagrams that leave joined reach the peer as they were, those to a port that
// nobody serves are refused, and switching meanwhile loses nothing.
func TestUDPOffload(t *testing.T) {
	for _, addr := range []string{"127.0.0.1", "::1"} {
		t.Run(addr, func(t *testing.T) {
			noLeaks(t)
			offload := new(mmsg.Offload)
			tab := newTable(t, UDPConfig{Offload: offload})
			server, dead := newEchoServer(t, addr), closedPorts(t, addr, 1)[0]
			var train [][]byte
			for i, size := range []int{1400, 1400, 1400, 700, 0, 1, 1, 9000, 9000, 2, 65507} {
				train = append(train, bytes.Repeat([]byte{byte(i + 1)}, size))
			}
			for round := range 20 {
				offload.Set(round%3 > 0)
				if err := tab.Send(source(1), server.addr, train...); err != nil {
					t.Fatal(err)
				}
				for i, want := range train {
					if got := next(t, tab.replies); got.peer != server.addr || !bytes.Equal(got.payload, want) {
						t.Fatalf("round %d: datagram %d is %d bytes from %s, want %d", round, i, len(got.payload), got.peer, len(want))
					}
				}
			}
			if err := tab.Send(source(1), dead, train[:3]...); err != nil && !errors.Is(err, syscall.ECONNREFUSED) {
				t.Fatal(err)
			}
			got := next(t, tab.refusals)
			if got.peer != dead || !errors.Is(got.reason, syscall.ECONNREFUSED) || len(got.payload) == 0 || !bytes.HasPrefix(train[0], got.payload) {
				t.Errorf("refused: %s, %d bytes, %v", got.peer, len(got.payload), got.reason)
			}
		})
	}
}
