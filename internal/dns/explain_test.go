package dns

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	miekg "github.com/miekg/dns"

	"github.com/portolan-net/portolan/internal/system"
)

func TestExplain(t *testing.T) {
	upstream := startResolver(t, func(query []byte, _ netip.AddrPort, how transport) [][]byte {
		switch m := unpackQuery(query); {
		case m.Question[0].Name == "nobody.example.":
			return [][]byte{rcodeAnswer(query, miekg.RcodeNameError)}
		case m.Question[0].Name == "long.example." && how == overUDP:
			answer := rcodeAnswer(query, miekg.RcodeSuccess)
			answer[2] |= flagTC
			return [][]byte{answer}
		}
		return [][]byte{addressAnswer(query, "192.0.2.1")}
	})
	cfg := resolverConfig(upstream)
	cfg.Resolver = system.ParseResolver(fmt.Appendf(nil, "# home\nnameserver [%s]:%d\nsearch home.example\n", upstream.addr.Addr(), upstream.addr.Port()))
	cfg.Hosts = system.ParseHosts([]byte("# home\n\n203.0.113.9 printer scanner.home.example\n"))
	s := runServer(t, Config{}, cfg)
	s.cache.hostOwn = func(netip.Addr) bool { return false }
	for _, c := range []struct {
		name, qtype string
		want        Explanation
	}{
		{"host.docker.internal", "A", Explanation{Rcode: "NOERROR", Source: FromPortolan, Records: []string{"host.docker.internal. 0 IN A 192.168.65.254"}}},
		{"web.portolan.internal", "A", Explanation{Rcode: "NXDOMAIN", Source: FromPortolan}},
		{"webportolan.internal", "A", Explanation{Rcode: "NOERROR", Source: FromResolver, Server: upstream.addr, Lines: []int{2}, Records: []string{"webportolan.internal. 60 IN A 192.0.2.1"}}},
		{"printer", "a", Explanation{Rcode: "NOERROR", Source: FromHosts, Lines: []int{3}, Records: []string{"printer. 0 IN A 203.0.113.9"}}},
		{"www.example", "A", Explanation{Rcode: "NOERROR", Source: FromResolver, Server: upstream.addr, Lines: []int{2}, Records: []string{"www.example. 60 IN A 192.0.2.1"}}},
		{"www.example", "A", Explanation{Rcode: "NOERROR", Source: FromCache, Server: upstream.addr, Lines: []int{2}, Records: []string{"www.example. 60 IN A 192.0.2.1"}}},
		{"wiki", "A", Explanation{Rcode: "NOERROR", Source: FromResolver, Server: upstream.addr, Lines: []int{2}, Completed: "wiki.home.example.",
			Records: []string{"wiki. 60 IN CNAME wiki.home.example.", "wiki.home.example. 60 IN A 192.0.2.1"}}},
		{"scanner", "A", Explanation{Rcode: "NOERROR", Source: FromHosts, Lines: []int{3}, Completed: "scanner.home.example.",
			Records: []string{"scanner. 0 IN CNAME scanner.home.example.", "scanner.home.example. 0 IN A 203.0.113.9"}}},
		{"nobody.example.", "TYPE65280", Explanation{Rcode: "NXDOMAIN", Source: FromResolver, Server: upstream.addr, Lines: []int{2}}},
		{"long.example", "A", Explanation{Rcode: "NOERROR", Source: FromResolver, Server: upstream.addr, Lines: []int{2}, Records: []string{"long.example. 60 IN A 192.0.2.1"}}},
	} {
		got, err := s.Explain(t.Context(), c.name, c.qtype)
		if err != nil {
			t.Fatalf("%s %s: %v", c.name, c.qtype, err)
		}
		c.want.Servers, c.want.Search = cfg.Resolver.Servers, cfg.Resolver.Search
		if kept := got.Age + got.Left; c.want.Source == FromCache != (kept == 60*time.Second) {
			t.Errorf("%s %s, from %s, has been in the cache for %s and stays for %s", c.name, c.qtype, got.Source, got.Age, got.Left)
		}
		got.Took, got.Age, got.Left = 0, 0, 0
		if got, want := fmt.Sprintf("%+v", got), fmt.Sprintf("%+v", c.want); got != want { // no matter whether nil or empty
			t.Errorf("%s %s is %s, want %s", c.name, c.qtype, got, want)
		}
	}
	s.names.Set(system.NameConfig{})
	got, err := s.Explain(t.Context(), "www.example", "A")
	if err != nil || got.Source != FromNobody || got.Rcode != "SERVFAIL" || got.Error != errNoServers.Error() {
		t.Errorf("without resolvers it is %+v, %v", got, err)
	}
	for _, wrong := range [][2]string{{"", "A"}, {"a..b", "A"}, {"www.example", "NOTYPE"}, {"www.example", "TYPE65536"}, {"www.example", "OPT"}} {
		if got, err := s.Explain(t.Context(), wrong[0], wrong[1]); err == nil {
			t.Errorf("%q is explained as %+v, want an error", wrong, got)
		}
	}
}

func TestExplainNamesWhatIsHidden(t *testing.T) {
	upstream := answering(t, "192.0.2.1", 0)
	s := runServer(t, Config{Filter: func() Filter { return Filter{A: true} }}, resolverConfig(upstream))
	got, err := s.Explain(t.Context(), "www.example", "A")
	if want := []string{"www.example. 60 IN A 192.0.2.1"}; err != nil || len(got.Records) != 0 || !slices.Equal(got.Hidden, want) || !got.HiddenA || got.HiddenAAAA || got.Rcode != "NOERROR" {
		t.Errorf("it is %+v, %v, want %v hidden", got, err, want)
	}
}

func TestLookup(t *testing.T) {
	upstream := startResolver(t, func(query []byte, _ netip.AddrPort, how transport) [][]byte {
		switch m := unpackQuery(query); {
		case m.Question[0].Name == "nobody.example.":
			return [][]byte{rcodeAnswer(query, miekg.RcodeNameError)}
		case m.Question[0].Qtype == miekg.TypeAAAA:
			return [][]byte{rcodeAnswer(query, miekg.RcodeSuccess)}
		case m.Question[0].Name == "long.example." && how == overUDP:
			answer := rcodeAnswer(query, miekg.RcodeSuccess)
			answer[2] |= flagTC
			return [][]byte{answer}
		}
		return [][]byte{addressAnswer(query, "192.0.2.1")}
	})
	cfg := resolverConfig(upstream)
	cfg.Hosts = system.ParseHosts([]byte("127.0.0.1 app.local\n"))
	s := runServer(t, Config{}, cfg)
	s.cache.hostOwn = func(netip.Addr) bool { return false }
	for name, want := range map[string]string{
		"www.example":           "[192.0.2.1] <nil>",
		"long.example":          "[192.0.2.1] <nil>",
		"host.docker.internal":  "[fdc4:f303:9324::254 192.168.65.254] <nil>",
		"app.local":             "[192.168.65.254] <nil>", // not the daemon's own loopback
		"nobody.example":        "[] look up nobody.example: NXDOMAIN",
		"web.portolan.internal": "[] look up web.portolan.internal: NXDOMAIN",
		"":                      `[] look up "": not a domain name`,
	} {
		addrs, err := s.Lookup(t.Context(), name)
		if got := fmt.Sprint(addrs, err); got != want {
			t.Errorf("Lookup(%q) = %s, want %s", name, got, want)
		}
	}
}

// Programs that read JSON go through a list, be it empty.
func TestExplainListsNoRecords(t *testing.T) {
	if recordTexts(nil) == nil {
		t.Error("no records are null")
	}
}
