package egress

import (
	"context"
	"net/netip"
	"testing"

	"github.com/portolan-net/portolan/internal/datapath"
	"github.com/portolan-net/portolan/internal/portolan"
)

// A container that knows gateway, resolver and host by the addresses of a former
// link finds them there, and is answered from there; the rest of that link is the
// host's.
func TestFormerLink(t *testing.T) {
	former := []portolan.Link{{V4: netip.MustParsePrefix("10.7.0.0/24"), V6: netip.MustParsePrefix("fd07::/64")}}
	e, m := newLocalEgress(t, func(cfg *Config) { cfg.Former = func() []portolan.Link { return former } })
	four, six := serveUDP(t, "127.0.0.1", 0, "four:"), serveUDP(t, "::1", 0, "six:")
	for _, link := range []string{"10.7.0.", "fd07::", link4, link6} {
		wantReply(t, e, m, flowTo(portolan.UDP, at(link+"7", 53)), "query", "yreuq")
		wantReply(t, e, m, flowTo(portolan.UDP, at(link+"254", four)), "a", "four:a")
		wantReply(t, e, m, flowTo(portolan.UDP, at(link+"254", six)), "b", "six:b")
		wantRefusedUDP(t, e, m, flowTo(portolan.UDP, at(link+"254", 9)), datapath.Refused)
		wantRefusedUDP(t, e, m, flowTo(portolan.UDP, at(link+"1", 53)), datapath.Refused)
		endpoint, err := e.OpenTCP(context.Background(), flowTo(portolan.TCP, at(link+"7", 53)))
		if err != nil {
			t.Errorf("DNS over TCP by %s7: %v", link, err)
			continue
		}
		must(t, endpoint.Close())
	}
	for dst, want := range map[string]verdict{"10.7.0.3": direct, "10.7.0.99": direct, "fd07::3": direct, "10.7.0.1": gateway} {
		if got, _ := e.decide(flowTo(portolan.TCP, at(dst, 80))); got != want {
			t.Errorf("%s: verdict %d, want %d", dst, got, want)
		}
	}
	former = nil // no container knows it any more
	if got, _ := e.decide(flowTo(portolan.UDP, at("10.7.0.7", 53))); got != direct {
		t.Errorf("a forgotten link's resolver: verdict %d, want %d", got, direct)
	}
}

func TestFormerNamesAreBounded(t *testing.T) {
	a, host := newAliases(), portolan.DefaultLink().Host()
	source := func(i int) netip.AddrPort { return netip.AddrPortFrom(netip.MustParseAddr("172.17.0.2"), uint16(i)) }
	old := netip.MustParseAddr("10.7.0.254")
	for i := range 2 * maxAliases {
		a.called(source(i), old, host)
	}
	if len(a.former) > maxAliases {
		t.Errorf("%d sources are remembered", len(a.former))
	}
	last := source(2*maxAliases - 1)
	if got, ok := a.formerOf(last); !ok || got != old {
		t.Errorf("the last one calls the host %v, %v", got, ok)
	}
	a.called(last, host.V4, host)
	if _, ok := a.formerOf(last); ok {
		t.Error("who calls the host by its present address is remembered with the former one")
	}
}
