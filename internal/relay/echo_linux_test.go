package relay

import (
	"bytes"
	"log/slog"
	"net/netip"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/portolan-net/portolan/internal/datapath"
	"github.com/portolan-net/portolan/internal/portolan"
)

// ping is one event that an Echo reported.
type ping struct {
	flow    portolan.Flow
	seq     uint16
	payload string
	reason  error
}

func newPinger(t *testing.T, log *slog.Logger) (e *Echo, replies, refusals chan ping) {
	t.Helper()
	replies, refusals = make(chan ping, 100), make(chan ping, 100)
	e = NewEcho(EchoConfig{
		Reply: func(flow portolan.Flow, seq uint16, payload []byte) {
			replies <- ping{flow, seq, string(payload), nil}
		},
		Refused: func(flow portolan.Flow, seq uint16, payload []byte, reason error) {
			refusals <- ping{flow, seq, string(payload), reason}
		},
		Log: log,
	})
	t.Cleanup(func() { must(t, e.Close()) })
	return e, replies, refusals
}

// echoFlow is a ping by container n with its identifier.
func echoFlow(n int, to string) portolan.Flow {
	id := uint16(7 * n)
	return portolan.Flow{
		Proto: portolan.ICMP,
		Src:   netip.AddrPortFrom(source(n).Addr(), id),
		Dst:   netip.AddrPortFrom(netip.MustParseAddr(to), id),
	}
}

func nextPing(t *testing.T, events chan ping) ping {
	t.Helper()
	select {
	case p := <-events:
		return p
	case <-time.After(5 * time.Second):
		t.Fatal("nothing arrived within 5 s")
		return ping{}
	}
}

// allowPing opens or closes the host's ping sockets, in the test's namespace.
func allowPing(t *testing.T, allow bool) {
	t.Helper()
	group := "1 0"
	if allow {
		group = "0 2147483647"
	}
	sysctl(t, "ipv4/ping_group_range", group)
}

// Both kinds of socket do the same: pings of two containers with the same
// sequence numbers, of all sizes, and those that a router refuses.
func TestEcho(t *testing.T) {
	for name, allow := range map[string]bool{"ping socket": true, "raw socket": false} {
		t.Run(name, func(t *testing.T) {
			noLeaks(t)
			enterNetwork(t)
			allowPing(t, allow)
			e, replies, refusals := newPinger(t, nil)
			for _, to := range []string{router4, router6} {
				for _, size := range []int{0, 56, 1472, 20_000, 65_000} {
					for n := range 2 {
						wantReply(t, e, replies, echoFlow(n, to), strings.Repeat("p", size))
					}
				}
			}
			if e.six[false].socket.raw == allow {
				t.Errorf("a raw socket is used: %v", !allow)
			}
			for _, to := range []string{nowhere4, nowhere6} {
				wantRefusal(t, e, refusals, echoFlow(3, to))
			}
			wantReply(t, e, replies, echoFlow(1, router4), "still works")
		})
	}
}

func wantReply(t *testing.T, e *Echo, replies chan ping, flow portolan.Flow, payload string) {
	t.Helper()
	must(t, e.Send(flow, 1, []byte(payload)))
	if got := nextPing(t, replies); got.flow != flow || got.seq != 1 || got.payload != payload {
		t.Errorf("%s: reply for %s, seq %d, %d bytes", flow, got.flow, got.seq, len(got.payload))
	}
}

func wantRefusal(t *testing.T, e *Echo, refusals chan ping, flow portolan.Flow) {
	t.Helper()
	must(t, e.Send(flow, 9, []byte("refused")))
	got := nextPing(t, refusals)
	if got.flow != flow || got.seq != 9 || got.payload != "refused" || datapath.Classify(got.reason) != wantUnreachable(flow.Dst.Addr()) {
		t.Errorf("%s: refused %s, seq %d, %q: %v", flow, got.flow, got.seq, got.payload, got.reason)
	}
}

func TestEchoForbidden(t *testing.T) {
	noLeaks(t)
	enterNetwork(t)
	allowPing(t, false)
	dropRaw(t)
	var log bytes.Buffer
	e, _, _ := newPinger(t, slog.New(slog.NewTextHandler(&log, nil)))
	for range 3 {
		err := e.Send(echoFlow(1, router4), 1, nil)
		if datapath.Classify(err) != datapath.Prohibited || err == nil {
			t.Errorf("send: %v, want permission denied", err)
		}
	}
	if n := strings.Count(log.String(), "ping_group_range"); n != 1 {
		t.Errorf("the log says %d times what to set:\n%s", n, &log)
	}
	allowPing(t, true) // takes effect at once
	must(t, e.Send(echoFlow(1, router4), 1, nil))
}

// dropRaw takes CAP_NET_RAW from the test's thread, which ends with the test.
func dropRaw(t *testing.T) {
	t.Helper()
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	must(t, unix.Capget(&header, &data[0]))
	data[0].Effective &^= 1 << unix.CAP_NET_RAW
	must(t, unix.Capset(&header, &data[0]))
}

func TestEchoTable(t *testing.T) {
	table := echoTable{pending: make(map[uint16]echoRequest)}
	peer := netip.MustParseAddr(near4)
	now := time.Now()
	add := func(seq uint16, at time.Time) uint16 {
		return table.add(echoRequest{flow: echoFlow(1, near4), seq: seq, sent: at})
	}
	first := add(100, now)
	if r, ok := table.find(first, peer, now); !ok || r.seq != 100 {
		t.Errorf("find = %v, %v", r, ok)
	}
	if _, ok := table.find(first, netip.MustParseAddr(router4), now); ok {
		t.Error("a reply of somebody else passes")
	}
	if _, ok := table.find(first, peer, now.Add(echoWait)); ok {
		t.Error("a reply passes after its time")
	}
	add(101, now.Add(echoWait))
	if len(table.pending) != 1 {
		t.Errorf("%d requests are kept, want the one in time", len(table.pending))
	}
	for range 3 * 65536 {
		add(1, now.Add(echoWait))
	}
	if len(table.pending) != maxEchoes {
		t.Errorf("%d requests are kept, want %d", len(table.pending), maxEchoes)
	}
}
