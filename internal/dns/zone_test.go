package dns

import (
	"context"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	miekg "github.com/miekg/dns"
)

func TestZone(t *testing.T) {
	z := new(Zone)
	many := make([]netip.Addr, 100)
	for i := range many {
		many[i] = netip.AddrFrom4([4]byte{172, 18, 0, byte(i)})
	}
	udp, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	tcp, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	served := make(chan error, 1)
	go func() { served <- z.Serve(ctx, udp, tcp) }()
	t.Cleanup(func() {
		cancel()
		if err := <-served; err != nil {
			t.Errorf("Serve = %v", err)
		}
	})
	query := func(network, name string, qtype, class uint16) *miekg.Msg {
		t.Helper()
		m := new(miekg.Msg).SetQuestion(name, qtype)
		m.Question[0].Qclass = class
		addr := udp.LocalAddr().String()
		if network == "tcp" {
			addr = tcp.Addr().String()
		}
		answer, _, err := (&miekg.Client{Net: network, Timeout: slack * time.Second}).Exchange(m, addr)
		if err != nil {
			t.Fatal(err)
		}
		return answer
	}
	if m := query("udp", "web.portolan.internal.", miekg.TypeA, miekg.ClassINET); m.Rcode != miekg.RcodeNameError {
		t.Errorf("before Set: %v", m)
	}
	z.Set(map[string][]netip.Addr{
		"Web":  {netip.MustParseAddr("172.17.0.2"), netip.MustParseAddr("fd00::2")},
		"four": {netip.MustParseAddr("172.17.0.3")},
		"many": many,
	})
	for _, c := range []struct {
		name    string
		qtype   uint16
		rcode   int
		records string
		soa     bool
	}{
		{name: "web.portolan.internal.", qtype: miekg.TypeA, records: "172.17.0.2"},
		{name: "WEB.Portolan.Internal.", qtype: miekg.TypeAAAA, records: "fd00::2"},
		{name: "web.portolan.internal.", qtype: miekg.TypeMX, soa: true},
		{name: "four.portolan.internal.", qtype: miekg.TypeAAAA, soa: true},
		{name: "nobody.portolan.internal.", qtype: miekg.TypeA, rcode: miekg.RcodeNameError, soa: true},
		{name: "a.web.portolan.internal.", qtype: miekg.TypeA, rcode: miekg.RcodeNameError, soa: true},
		{name: "portolan.internal.", qtype: miekg.TypeA, soa: true},
		{name: "www.example.", qtype: miekg.TypeA, rcode: miekg.RcodeRefused},
		{name: "webportolan.internal.", qtype: miekg.TypeA, rcode: miekg.RcodeRefused},
		{name: ".", qtype: miekg.TypeNS, rcode: miekg.RcodeRefused},
	} {
		for _, network := range []string{"udp", "tcp"} {
			m := query(network, c.name, c.qtype, miekg.ClassINET)
			var texts []string
			for _, rr := range m.Answer {
				texts = append(texts, strings.Fields(rr.String())[4])
			}
			if got := strings.Join(texts, " "); m.Rcode != c.rcode || got != c.records || (len(m.Ns) == 1) != c.soa {
				t.Errorf("%s %s over %s: %v", c.name, miekg.TypeToString[c.qtype], network, m)
			}
		}
	}
	if m := query("udp", "web.portolan.internal.", miekg.TypeA, miekg.ClassCHAOS); m.Rcode != miekg.RcodeRefused {
		t.Errorf("class CHAOS: %v", m)
	}
	if m := query("udp", "portolan.internal.", miekg.TypeSOA, miekg.ClassINET); len(m.Answer) != 1 {
		t.Errorf("SOA: %v", m)
	}
	if m := query("udp", "many.portolan.internal.", miekg.TypeA, miekg.ClassINET); !m.Truncated {
		t.Errorf("100 addresses over UDP: %v", m)
	}
	if m := query("tcp", "many.portolan.internal.", miekg.TypeA, miekg.ClassINET); m.Truncated || len(m.Answer) != len(many) {
		t.Errorf("100 addresses over TCP: %d", len(m.Answer))
	}
}
