package egress

import (
	"strings"
	"testing"
	"time"

	"github.com/portolan-net/portolan/internal/datapath"
	"github.com/portolan-net/portolan/internal/portolan"
)

// wantReply sends a datagram and fails unless the answer comes from where it went.
func wantReply(t *testing.T, e *Egress, m *fakeMachine, flow portolan.Flow, payload, want string) {
	t.Helper()
	e.HandleUDP(flow, []byte(payload))
	if got := m.next(t); got.flow != flow || got.payload != want || got.reason != nil {
		t.Errorf("%s: %s got %d bytes (%.20q), %v; want %.20q", flow, got.flow, len(got.payload), got.payload, got.reason, want)
	}
}

func wantRefusedUDP(t *testing.T, e *Egress, m *fakeMachine, flow portolan.Flow, want datapath.Refusal) {
	t.Helper()
	e.HandleUDP(flow, []byte("lost"))
	got := m.next(t)
	if got.flow != flow || got.payload != "lost" || got.reason == nil || datapath.Classify(got.reason) != want {
		t.Errorf("%s: %s got %q, %v; want refusal %d", flow, got.flow, got.payload, got.reason, want)
	}
}

func TestUDPDirect(t *testing.T) {
	e, m := newEgress(t, nil)
	for _, addr := range []string{here4, here6} {
		flow := flowTo(portolan.UDP, at(addr, serveUDP(t, addr, 0, "")))
		for _, size := range []int{1, 1400, 9000, 65507} {
			text := strings.Repeat("u", size)
			wantReply(t, e, m, flow, text, text)
		}
		wantRefusedUDP(t, e, m, flowTo(portolan.UDP, at(addr, 1)), datapath.Refused)
	}
	wantRefusedUDP(t, e, m, flowTo(portolan.UDP, at(nowhere4, 1)), datapath.HostUnreachable)
	wantRefusedUDP(t, e, m, flowTo(portolan.UDP, at(nowhere6, 1)), datapath.HostUnreachable)
	wantRefusedUDP(t, e, m, flowTo(portolan.UDP, at("192.0.2.1", 1)), datapath.NetUnreachable)
	wantRefusedUDP(t, e, m, flowTo(portolan.UDP, at("2001:db8:2::1", 1)), datapath.NetUnreachable)
}

func TestUDPLink(t *testing.T) {
	e, m := newEgress(t, nil)
	for _, link := range []string{link4, link6} {
		wantReply(t, e, m, flowTo(portolan.UDP, at(link+"7", 53)), "query", "yreuq")
		wantRefusedUDP(t, e, m, flowTo(portolan.UDP, at(link+"7", 54)), datapath.Refused)
		wantRefusedUDP(t, e, m, flowTo(portolan.UDP, at(link+"1", 53)), datapath.Refused)
		wantRefusedUDP(t, e, m, flowTo(portolan.UDP, at(link+"3", 53)), datapath.HostUnreachable)
	}
	wantRefusedUDP(t, e, m, flowTo(portolan.UDP, at("127.0.0.1", 53)), datapath.NetUnreachable)
	// Nothing is said about a multicast; the next answer is the next datagram's.
	e.HandleUDP(flowTo(portolan.UDP, at("224.0.0.251", 5353)), []byte("multicast"))
	wantReply(t, e, m, flowTo(portolan.UDP, at(link4+"7", 53)), "query", "yreuq")
}

func TestUDPHost(t *testing.T) {
	e, m := newLocalEgress(t, nil)
	both := serveUDP(t, "127.0.0.1", 0, "four:")
	serveUDP(t, "::1", both, "six:")
	six := serveUDP(t, "::1", 0, "six:")
	for six == both { // the kernel's choice knows one family only
		six = serveUDP(t, "::1", 0, "six:")
	}
	for _, link := range []string{link4, link6} {
		wantReply(t, e, m, flowTo(portolan.UDP, at(link+"254", both)), "a", "four:a")
		wantReply(t, e, m, flowTo(portolan.UDP, at(link+"254", six)), "b", "six:b")
		wantReply(t, e, m, flowTo(portolan.UDP, at(link+"254", six)), "c", "six:c")
		e.aliases.forget(six)
		nobody := flowTo(portolan.UDP, at(link+"254", 9))
		wantRefusedUDP(t, e, m, nobody, datapath.Refused)
		wantRefusedUDP(t, e, m, nobody, datapath.Refused)
		if e.aliases.isSix(9, time.Now()) {
			t.Error("::1 is tried first where nobody serves")
		}
	}
}

// A first datagram that the error does not quote whole is refused; the next
// one finds the server.
func TestUDPHostLongDatagram(t *testing.T) {
	e, m := newLocalEgress(t, nil)
	flow := flowTo(portolan.UDP, at(link4+"254", serveUDP(t, "::1", 0, "")))
	for _, size := range []int{quoted4 - 1, quoted4, quoted4 + 1, 9000} {
		e.aliases.forget(flow.Dst.Port())
		text := strings.Repeat("l", size)
		e.HandleUDP(flow, []byte(text))
		got := m.next(t)
		if size < quoted4 {
			if got.payload != text || got.reason != nil {
				t.Errorf("%d bytes: %d bytes came back, %v", size, len(got.payload), got.reason)
			}
			continue
		}
		if got.reason == nil || len(got.payload) != quoted4 {
			t.Errorf("%d bytes: the machine got %d bytes, %v", size, len(got.payload), got.reason)
		}
		wantReply(t, e, m, flow, text, text)
	}
}

func TestAliasesAreForgotten(t *testing.T) {
	a, now := newAliases(), time.Now()
	a.learn(1, now)
	if !a.isSix(1, now) || a.isSix(1, now.Add(sixFor)) || a.isSix(2, now) {
		t.Error("port 1 should be known for a while, port 2 not")
	}
	for port := range 2 * maxAliases {
		a.learn(uint16(port), now)
	}
	if len(a.six) > maxAliases {
		t.Errorf("%d ports are remembered", len(a.six))
	}
}

func TestEcho(t *testing.T) {
	e, m := newEgress(t, nil)
	ping := func(addr string) event {
		e.HandleEcho(flowTo(portolan.ICMP, at(addr, 77)), 5, []byte("ping"))
		got := m.next(t)
		if want := flowTo(portolan.ICMP, at(addr, 77)); got.flow != want || got.seq != 5 || got.payload != "ping" {
			t.Errorf("%s: got %s, seq %d, %q", want, got.flow, got.seq, got.payload)
		}
		return got
	}
	for _, addr := range []string{here4, here6, link4 + "1", link4 + "7", link6 + "254"} {
		if got := ping(addr); got.reason != nil {
			t.Errorf("%s: %v", addr, got.reason)
		}
	}
	for addr, want := range map[string]datapath.Refusal{
		nowhere4: datapath.HostUnreachable, nowhere6: datapath.HostUnreachable, link4 + "3": datapath.HostUnreachable,
		"192.0.2.1": datapath.NetUnreachable, "127.0.0.1": datapath.NetUnreachable,
	} {
		if got := ping(addr); got.reason == nil || datapath.Classify(got.reason) != want {
			t.Errorf("%s: %v, want refusal %d", addr, got.reason, want)
		}
	}
}
