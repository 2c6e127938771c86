package dns

import (
	"bytes"
	"fmt"
	"net/netip"
	"sync/atomic"
	"testing"
	"time"

	miekg "github.com/miekg/dns"

	"github.com/portolan-net/portolan/internal/system"
)

var elsewhere = netip.MustParseAddrPort("192.0.2.53:53")

// nowhere are the addresses of a host that has none but loopback.
func nowhere(netip.Addr) bool { return false }

func mustParse(t testing.TB, raw []byte) *query {
	t.Helper()
	q, err := parseQuery(raw)
	if err != nil {
		t.Fatal(err)
	}
	return q
}

// answerWith is an answer with these records, given as lines of a zone file:
// those after "--" are of the authority section.
func answerWith(t testing.TB, query []byte, rcode int, lines ...string) []byte {
	t.Helper()
	m := unpackQuery(query)
	m.Rcode = rcode
	section := &m.Answer
	for _, line := range lines {
		if line == "--" {
			section = &m.Ns
			continue
		}
		rr, err := miekg.NewRR(line)
		if err != nil {
			t.Fatal(err)
		}
		*section = append(*section, rr)
	}
	return mustPack(m)
}

func TestLifetime(t *testing.T) {
	const soa = "example. 600 IN SOA ns.example. admin.example. 1 2 3 4 "
	for _, c := range []struct {
		name  string
		rcode int
		lines []string
		want  time.Duration
	}{
		{"a record", 0, []string{"www.example. 60 IN A 192.0.2.1"}, time.Minute},
		{"the shortest counts", 0, []string{"www.example. 60 IN A 192.0.2.1", "www.example. 30 IN A 192.0.2.2"}, 30 * time.Second},
		{"authority counts", 0, []string{"www.example. 60 IN A 192.0.2.1", "--", "example. 20 IN NS ns.example."}, 20 * time.Second},
		{"by way of an alias", 0, []string{"www.example. 50 IN CNAME web.example.", "web.example. 60 IN A 192.0.2.1"}, 50 * time.Second},
		{"at most an hour", 0, []string{"www.example. 86400 IN A 192.0.2.1"}, time.Hour},
		{"not at all", 0, []string{"www.example. 0 IN A 192.0.2.1"}, 0},
		{"highest bit", 0, []string{"www.example. 2147483648 IN A 192.0.2.1"}, 0},
		{"no such name", miekg.RcodeNameError, []string{"--", soa + "40"}, 40 * time.Second},
		{"its TTL is shorter", miekg.RcodeNameError, []string{"--", "example. 10 IN SOA ns.example. a.example. 1 2 3 4 40"}, 10 * time.Second},
		{"at most five minutes", miekg.RcodeNameError, []string{"--", soa + "590"}, 5 * time.Minute},
		{"no such name, no SOA", miekg.RcodeNameError, nil, 0},
		{"no data", 0, []string{"--", soa + "40"}, 40 * time.Second},
		{"no data, no SOA", 0, nil, 0},
		{"an alias of nothing", 0, []string{"www.example. 50 IN CNAME web.example.", "--", soa + "40"}, 40 * time.Second},
		{"an alias of who knows", 0, []string{"www.example. 50 IN CNAME web.example."}, 0},
		{"SERVFAIL", miekg.RcodeServerFailure, []string{"--", soa + "40"}, 0},
		{"REFUSED", miekg.RcodeRefused, []string{"www.example. 60 IN A 192.0.2.1"}, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			raw := ask("www.example", miekg.TypeA)
			if got, _ := lifetime(answerWith(t, raw, c.rcode, c.lines...), mustParse(t, raw)); got != c.want {
				t.Errorf("lifetime = %s, want %s", got, c.want)
			}
		})
	}
	raw := ask("www.example", miekg.TypeA)
	whole := addressAnswer(raw, "192.0.2.1")
	cut := bytes.Clone(whole)
	cut[2] |= flagTC
	for name, answer := range map[string][]byte{
		"TC": cut, "bytes behind": append(bytes.Clone(whole), 0), "bytes missing": whole[:len(whole)-1],
	} {
		if got, _ := lifetime(answer, mustParse(t, raw)); got != 0 {
			t.Errorf("%s: lifetime = %s, want 0", name, got)
		}
	}
}

func TestCacheAgesAndForgets(t *testing.T) {
	c, config, now := newCache(nowhere), new(system.NameConfig), time.Now()
	raw := ask("www.Example", miekg.TypeA)
	answer := addressAnswer(raw, "192.0.2.1")
	answer[2] |= flagAA
	q := mustParse(t, raw)
	if _, ok := c.lookup(q, config, now); ok {
		t.Fatal("an empty cache knows an answer")
	}
	c.store(q, config, answer, elsewhere, now)

	again := ask("wWW.example", miekg.TypeA) // another id, other letters
	found, ok := c.lookup(mustParse(t, again), config, now.Add(20*time.Second))
	if !ok || found.from != elsewhere || found.age != 20*time.Second {
		t.Fatalf("lookup = %+v, %v", found, ok)
	}
	m := unpack(t, found.answer, again)
	if m.Question[0].Name != "wWW.example." || firstA(m) != "192.0.2.1" || m.Answer[0].Header().Ttl != 40 || m.Authoritative {
		t.Errorf("after 20 s of 60: %v", m)
	}
	if _, ok := c.lookup(q, config, now.Add(time.Minute)); ok {
		t.Error("it outlives its TTL")
	}
	c.store(q, config, answer, elsewhere, now)
	next := new(system.NameConfig)
	if _, ok := c.lookup(q, next, now); ok {
		t.Error("it outlives a change of resolvers")
	}
	c.store(q, config, answer, elsewhere, now)
	if _, ok := c.lookup(q, next, now); ok {
		t.Error("what was asked before a change is kept after it")
	}
	if _, ok := c.lookup(q, config, now); ok {
		t.Error("it comes back with the former configuration")
	}
}

// A query that asks for anything more is not answered from the answer to less.
func TestCacheKeepsQueriesApart(t *testing.T) {
	c, config, now := newCache(nowhere), new(system.NameConfig), time.Now()
	cookie := func(m *miekg.Msg) {
		m.SetEdns0(1232, false)
		m.IsEdns0().Option = []miekg.EDNS0{&miekg.EDNS0_COOKIE{Code: miekg.EDNS0COOKIE, Cookie: "24a5ac1234567890"}}
	}
	changes := map[string]func(*miekg.Msg){
		"plain":    func(*miekg.Msg) {},
		"EDNS":     func(m *miekg.Msg) { m.SetEdns0(1232, false) },
		"DO":       func(m *miekg.Msg) { m.SetEdns0(1232, true) },
		"CD":       func(m *miekg.Msg) { m.CheckingDisabled = true },
		"AD":       func(m *miekg.Msg) { m.AuthenticatedData = true },
		"no RD":    func(m *miekg.Msg) { m.RecursionDesired = false },
		"AAAA":     func(m *miekg.Msg) { m.Question[0].Qtype = miekg.TypeAAAA },
		"CHAOS":    func(m *miekg.Msg) { m.Question[0].Qclass = miekg.ClassCHAOS },
		"the name": func(m *miekg.Msg) { m.Question[0].Name = "www.example2." },
	}
	for name, change := range changes {
		q := mustParse(t, ask("www.example", miekg.TypeA, change))
		if _, ok := c.lookup(q, config, now); ok {
			t.Errorf("%s: answered by another", name)
		}
		c.store(q, config, answerWith(t, q.raw, 0, q.asked+" 60 "+miekg.ClassToString[q.class]+" "+miekg.TypeToString[q.qtype]+" "+
			map[uint16]string{miekg.TypeA: "192.0.2.1", miekg.TypeAAAA: "2001:db8::1"}[q.qtype]), elsewhere, now)
		if _, ok := c.lookup(q, config, now); !ok {
			t.Errorf("%s: not kept", name)
		}
	}
	for name, change := range map[string]func(*miekg.Msg){
		"cookie":  cookie,
		"version": func(m *miekg.Msg) { m.SetEdns0(1232, false); m.IsEdns0().SetVersion(1) },
		"a record": func(m *miekg.Msg) {
			rr, _ := miekg.NewRR("www.example. 60 IN A 192.0.2.1")
			m.Extra = []miekg.RR{rr}
		},
	} {
		q := mustParse(t, ask("www.example", miekg.TypeA, change))
		c.store(q, config, addressAnswer(q.raw, "192.0.2.1"), elsewhere, now)
		if _, ok := c.lookup(q, config, now); ok {
			t.Errorf("%s: answered from the cache", name)
		}
	}
	q := mustParse(t, ask("stub.example", miekg.TypeA))
	c = newCache(func(a netip.Addr) bool { return a == serverA.Addr() })
	c.lookup(q, config, now)
	for from, kept := range map[netip.AddrPort]bool{netip.MustParseAddrPort("127.0.0.53:53"): false, serverA: false, serverB: true} {
		c.store(q, config, addressAnswer(q.raw, "192.0.2.1"), from, now)
		if _, ok := c.lookup(q, config, now); ok != kept {
			t.Errorf("what %s said is kept: %v, want %v", from, ok, kept)
		}
		c.useLocked(nil)
		c.useLocked(config)
	}
}

func TestCacheIsBounded(t *testing.T) {
	c, config, now := newCache(nowhere), new(system.NameConfig), time.Now()
	first := mustParse(t, ask("first.example", miekg.TypeA))
	c.lookup(first, config, now)
	c.store(first, config, addressAnswer(first.raw, "192.0.2.1"), elsewhere, now)
	for i := range 2 * maxCached {
		q := mustParse(t, ask(fmt.Sprintf("name%d.example", i), miekg.TypeA))
		c.store(q, config, addressAnswer(q.raw, "192.0.2.1"), elsewhere, now)
		if _, ok := c.lookup(first, config, now); !ok { // what is used stays
			t.Fatalf("forgotten after %d others", i)
		}
	}
	if len(c.entries) > maxCached || c.recent.Len() != len(c.entries) {
		t.Errorf("%d entries, %d in the list, want at most %d", len(c.entries), c.recent.Len(), maxCached)
	}
	for i := range 2 * maxCachedBytes / 4000 {
		q := mustParse(t, ask(fmt.Sprintf("big%d.example", i), miekg.TypeTXT))
		line := fmt.Sprintf("%s 60 IN TXT", q.asked)
		for range 16 {
			line += fmt.Sprintf(" %q", bytes.Repeat([]byte("x"), 250))
		}
		c.store(q, config, answerWith(t, q.raw, 0, line), elsewhere, now)
	}
	size := 0
	for _, element := range c.entries {
		size += len(element.Value.(*cached).answer)
	}
	if size != c.size || size > maxCachedBytes || size < maxCachedBytes/2 {
		t.Errorf("%d bytes, counted %d, want at most %d", size, c.size, maxCachedBytes)
	}
}

// Through the whole server: one question goes out, and another one after a
// change of the host's resolvers.
func TestServerCaches(t *testing.T) {
	var asked atomic.Int64
	answerer := func(addr string) *resolver {
		return startResolver(t, func(query []byte, _ netip.AddrPort, _ transport) [][]byte {
			asked.Add(1)
			return [][]byte{addressAnswer(query, addr)}
		})
	}
	before, after := answerer("192.0.2.1"), answerer("192.0.2.2")
	s := newSetup(t, before)
	s.cache.hostOwn = func(netip.Addr) bool { return false }
	query := ask("www.example", miekg.TypeA)
	for range 3 {
		if m, _ := s.udp(t, query); firstA(m) != "192.0.2.1" {
			t.Fatalf("answer is %v", m)
		}
		if m := unpack(t, s.tcp(t, query), query); firstA(m) != "192.0.2.1" {
			t.Fatalf("answer over TCP is %v", m)
		}
	}
	if n := asked.Load(); n != 1 {
		t.Errorf("the resolver was asked %d times, want once", n)
	}
	s.names.Set(resolverConfig(after))
	if m, _ := s.udp(t, query); firstA(m) != "192.0.2.2" || asked.Load() != 2 {
		t.Errorf("after the change: %v, asked %d times in all", m, asked.Load())
	}
	elsewhere := resolverConfig(after)
	elsewhere.Network++
	s.names.Set(elsewhere)
	if m, _ := s.udp(t, query); firstA(m) != "192.0.2.2" || asked.Load() != 3 {
		t.Errorf("in another network: %v, asked %d times in all", m, asked.Load())
	}
}

// What the second resolver says while the first is down, or takes longer than its
// turn, is not kept: the first alone may know the name as it is in the company.
func TestOnlyTheFirstResolverIsKept(t *testing.T) {
	t.Parallel()
	var up atomic.Bool
	first := startResolver(t, func(query []byte, _ netip.AddrPort, _ transport) [][]byte {
		if !up.Load() {
			return [][]byte{rcodeAnswer(query, miekg.RcodeServerFailure)}
		}
		return [][]byte{addressAnswer(query, "192.0.2.1")}
	})
	s := newSetup(t, first, answering(t, "192.0.2.2", 0))
	s.cache.hostOwn = nowhere
	query := ask("www.example", miekg.TypeA)
	if m, _ := s.udp(t, query); firstA(m) != "192.0.2.2" {
		t.Fatalf("without the first, the answer is %v", m)
	}
	up.Store(true)
	if m, _ := s.udp(t, query); firstA(m) != "192.0.2.1" {
		t.Errorf("when it is back, the answer is %v", m)
	}
	up.Store(false)
	if m, _ := s.udp(t, query); firstA(m) != "192.0.2.1" {
		t.Errorf("what it said is forgotten: %v", m)
	}
}

// FuzzCache stores whatever a resolver may say and gets it back as it was, but
// for id, AA, spelling and TTLs.
func FuzzCache(f *testing.F) {
	raw := ask("www.example", miekg.TypeA, func(m *miekg.Msg) { m.SetEdns0(1232, true) })
	f.Add(raw, addressAnswer(raw, "192.0.2.1"), uint16(7))
	f.Add(raw, rcodeAnswer(raw, miekg.RcodeNameError), uint16(0))
	f.Fuzz(func(t *testing.T, raw, answer []byte, seconds uint16) {
		q, err := parseQuery(raw)
		if err != nil || !answers(answer, raw, q) {
			return
		}
		c, config, now := newCache(nowhere), new(system.NameConfig), time.Now()
		c.lookup(q, config, now)
		c.store(q, config, answer, elsewhere, now)
		found, ok := c.lookup(q, config, now.Add(time.Duration(seconds)*time.Second))
		if !ok {
			return
		}
		if len(found.answer) != len(answer) || !answers(found.answer, raw, q) {
			t.Fatalf("% x came back as % x", answer, found.answer)
		}
		_, ttls := lifetime(answer, q)
		for _, at := range ttls {
			copy(found.answer[at:at+4], answer[at:])
		}
		found.answer[2] |= answer[2] & flagAA
		copy(found.answer[headerSize:q.questionEnd], answer[headerSize:])
		if !bytes.Equal(found.answer, answer) {
			t.Fatalf("% x came back as % x", answer, found.answer)
		}
	})
}
