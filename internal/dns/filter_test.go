package dns

import (
	"bytes"
	"net/netip"
	"strings"
	"testing"

	miekg "github.com/miekg/dns"

	"github.com/portolan-net/portolan/internal/system"
)

// records of one message, as text of their types and data.
func shown(t *testing.T, msg []byte) string {
	t.Helper()
	m := new(miekg.Msg)
	if err := m.Unpack(msg); err != nil {
		t.Fatal(err)
	}
	out := []string{miekg.RcodeToString[m.Rcode]}
	for _, rr := range append(m.Answer, m.Extra...) {
		if rr.Header().Rrtype == miekg.TypeOPT {
			continue
		}
		out = append(out, strings.Join(strings.Fields(strings.TrimPrefix(rr.String(), rr.Header().String())), " "))
	}
	return strings.Join(out, "; ")
}

func TestHide(t *testing.T) {
	const both = "a.test. 60 IN A 192.0.2.1|a.test. 60 IN AAAA 2001:db8::1"
	const https = `a.test. 60 IN HTTPS 1 . mandatory="ipv6hint" alpn="h2" ipv4hint="192.0.2.1" ipv6hint="2001:db8::1"`
	for _, c := range []struct {
		name, qtype, records string
		rcode                int
		a, aaaa              bool
		want                 string
	}{
		{"nothing hidden", "ANY", both, 0, false, false, "NOERROR; 192.0.2.1; 2001:db8::1"},
		{"AAAA", "AAAA", "a.test. 60 IN AAAA 2001:db8::1", 0, false, true, "NOERROR"},
		{"A", "A", "a.test. 60 IN A 192.0.2.1", 0, true, false, "NOERROR"},
		{"the other family", "A", "a.test. 60 IN A 192.0.2.1", 0, false, true, "NOERROR; 192.0.2.1"},
		{"of both", "ANY", both, 0, false, true, "NOERROR; 192.0.2.1"},
		{"an alias stays", "AAAA", "a.test. 60 IN CNAME b.test.|b.test. 60 IN AAAA 2001:db8::1", 0, false, true, "NOERROR; b.test."},
		{"no such name", "AAAA", "", miekg.RcodeNameError, false, true, "NXDOMAIN"},
		{"hints", "HTTPS", https, 0, false, true, `NOERROR; 1 . alpn="h2" ipv4hint="192.0.2.1"`},
		{"the other hints", "HTTPS", https, 0, true, false, `NOERROR; 1 . mandatory="ipv6hint" alpn="h2" ipv6hint="2001:db8::1"`},
		{"both hints", "SVCB", strings.Replace(https, "HTTPS", "SVCB", 1), 0, true, true, `NOERROR; 1 . alpn="h2"`},
		{"no addresses", "TXT", `a.test. 60 IN TXT "x"`, 0, true, true, `NOERROR; "x"`},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := new(miekg.Msg)
			m.SetQuestion("a.test.", miekg.StringToType[c.qtype])
			raw, err := m.Pack()
			if err != nil {
				t.Fatal(err)
			}
			q, err := parseQuery(raw)
			if err != nil {
				t.Fatal(err)
			}
			q.hidden = families{c.a, c.aaaa}
			m.SetRcode(m.Copy(), c.rcode)
			for text := range strings.SplitSeq(c.records, "|") {
				if text == "" {
					continue
				}
				rr, err := miekg.NewRR(text)
				if err != nil {
					t.Fatal(err)
				}
				m.Answer = append(m.Answer, rr)
			}
			answer, err := m.Pack()
			if err != nil {
				t.Fatal(err)
			}
			before := bytes.Clone(answer)
			got := hide(answer, q)
			if text := shown(t, got); text != c.want {
				t.Errorf("%s, want %s", text, c.want)
			}
			if !c.a && !c.aaaa && !bytes.Equal(got, before) {
				t.Error("an answer with nothing to hide was touched")
			}
		})
	}
}

func TestHideWhatCantBeParsed(t *testing.T) {
	for qtype, untouched := range map[uint16]bool{miekg.TypeAAAA: false, miekg.TypeTXT: true} {
		m := new(miekg.Msg)
		m.SetQuestion("a.test.", qtype)
		raw, _ := m.Pack()
		q, _ := parseQuery(raw)
		q.hidden = families{aaaa: true}
		answer := append(bytes.Clone(raw), 1, 2, 3)
		answer[2] |= flagQR
		setCount(answer, 1, 1)
		got := hide(answer, q)
		if bytes.Equal(got, answer) != untouched {
			t.Errorf("type %d: %x", qtype, got)
		}
	}
}

// The option no-aaaa of resolv.conf hides what resolvers say, but not what the hosts
// file says, nor our own names.
func TestNoAAAA(t *testing.T) {
	cfg := resolverConfig(startResolver(t, func(query []byte, _ netip.AddrPort, _ transport) [][]byte {
		q := mustParse(t, query)
		if q.name == "nobody.example" {
			return [][]byte{rcodeAnswer(query, miekg.RcodeNameError)}
		}
		return [][]byte{answerWith(t, query, 0, q.asked+" 60 IN "+miekg.TypeToString[q.qtype]+" "+map[uint16]string{miekg.TypeA: "192.0.2.1", miekg.TypeAAAA: "2001:db8::1"}[q.qtype])}
	}))
	cfg.Resolver.NoAAAA = true
	cfg.Resolver.Search = []string{"example"}
	cfg.Hosts = system.ParseHosts([]byte("2001:db8::2 printer.lab\n"))
	s := runServer(t, Config{}, cfg)
	for _, c := range []struct {
		name  string
		qtype uint16
		want  string
	}{
		{"www.example", miekg.TypeA, "NOERROR; 192.0.2.1"},
		{"www.example", miekg.TypeAAAA, "NOERROR"},
		{"www", miekg.TypeAAAA, "NOERROR; www.example."},
		{"nobody.example", miekg.TypeAAAA, "NXDOMAIN"},
		{"printer.lab", miekg.TypeAAAA, "NOERROR; 2001:db8::2"},
		{"localhost", miekg.TypeAAAA, "NOERROR; ::1"},
	} {
		answer, _ := s.exchangeUDP(ask(c.name, c.qtype), slack*silence)
		if got := shown(t, answer); got != c.want {
			t.Errorf("%s %s is %s, want %s", c.name, miekg.TypeToString[c.qtype], got, c.want)
		}
	}
	e, err := s.Explain(t.Context(), "www.example", "AAAA")
	if err != nil || !e.NoAAAA || len(e.Hidden) != 1 {
		t.Errorf("it is explained as %+v, %v", e, err)
	}
}

// FuzzFilter takes a query from a container and an answer from a resolver, with each
// family hidden: what comes out is the answer without addresses and hints of it. The
// same answer is given to a short name that was completed.
func FuzzFilter(f *testing.F) {
	const long = "www.corp.example"
	for _, seed := range []struct {
		qtype uint16
		lines []string
	}{
		{miekg.TypeA, []string{"www.corp.example. 60 IN CNAME web.example.", "web.example. 60 IN A 192.0.2.1"}},
		{miekg.TypeAAAA, []string{"www.corp.example. 60 IN AAAA 2001:db8::1", "--", "example. 60 IN SOA ns.example. a.example. 1 2 3 4 5"}},
		{miekg.TypeHTTPS, []string{`www.corp.example. 60 IN HTTPS 1 . mandatory="ipv6hint" ipv4hint="192.0.2.1" ipv6hint="2001:db8::1"`}},
		{miekg.TypeSVCB, []string{`www.corp.example. 60 IN SVCB 1 . ipv6hint="2001:db8::1"`}},
		{miekg.TypeANY, []string{"www.corp.example. 60 IN A 192.0.2.1", "www.corp.example. 60 IN RRSIG A 8 2 60 20300101000000 20200101000000 1 example. AAAA"}},
	} {
		raw := ask(long, seed.qtype, func(m *miekg.Msg) { m.SetEdns0(1232, true) })
		for _, hidden := range []byte{0, 1, 2, 3} {
			f.Add(raw, answerWith(f, raw, 0, seed.lines...), hidden)
		}
	}
	f.Add(ask("www", miekg.TypeA), rcodeAnswer(ask(long, miekg.TypeA), miekg.RcodeNameError), byte(3))
	// An SOA without anything in it, which the parser takes, and writes with less than it wants.
	short := rcodeAnswer(ask(long, miekg.TypeA), miekg.RcodeSuccess)
	setCount(short, 2, 1)
	short = append(short, 0, 0, byte(miekg.TypeSOA), 0, 1, 0, 0, 0, 9, 0, 0)
	f.Add(ask("www", miekg.TypeA), short, byte(0))
	f.Fuzz(func(t *testing.T, raw, answer []byte, hidden byte) {
		q, err := parseQuery(raw)
		if err != nil || len(answer) < headerSize {
			return
		}
		q.hidden = families{hidden&1 != 0, hidden&2 != 0}
		before := bytes.Clone(answer)
		checkHidden(t, q, hide(answer, q), before)
		if !bytes.Equal(answer, before) {
			t.Fatalf("the answer itself was changed:\n% x\n% x", before, answer)
		}
		c, ok := q.renamed("completed." + q.asked)
		if !ok {
			return
		}
		if out, ok := asked(q, c, answer); ok {
			var m miekg.Msg
			if err := m.Unpack(out); err != nil {
				t.Fatalf("the answer to the completed name can't be read: %v\n% x", err, out)
			}
			checkHidden(t, q, hide(out, q), out)
		}
	})
}

// checkHidden looks at what hide made of an answer.
func checkHidden(t *testing.T, q *query, out, whole []byte) {
	t.Helper()
	var before, after miekg.Msg
	if before.Unpack(whole) != nil {
		return // TestHideWhatCantBeParsed
	}
	if err := after.Unpack(out); err != nil {
		t.Fatalf("what is left can't be read: %v\n% x\nof\n% x", err, out, whole)
	}
	if after.Id != before.Id && !bytes.Equal(out[:2], q.raw[:2]) || after.Rcode != before.Rcode && after.Rcode != miekg.RcodeSuccess || len(after.Ns) != len(before.Ns) && len(after.Ns) != 0 {
		t.Fatalf("%v\nbecame\n%v", &before, &after)
	}
	for _, rr := range append(after.Answer, after.Extra...) {
		text := rr.String()
		a, aaaa := rr.Header().Rrtype == miekg.TypeA, rr.Header().Rrtype == miekg.TypeAAAA
		switch rr.(type) {
		case *miekg.HTTPS, *miekg.SVCB:
			a, aaaa = strings.Contains(text, " ipv4hint="), strings.Contains(text, " ipv6hint=")
		}
		if q.hidden.a && a || q.hidden.aaaa && aaaa {
			t.Fatalf("with %+v hidden it has %s", q.hidden, text)
		}
	}
	if again := hide(bytes.Clone(out), q); !bytes.Equal(again, out) {
		t.Fatalf("hiding twice makes another answer:\n% x\n% x", out, again)
	}
}

func TestFilterOfNames(t *testing.T) {
	f := Filter{AAAA: true, OwnA: true}
	for name, want := range map[string][2]bool{
		"web.test": {false, true}, "localhost": {false, false}, "x.localhost": {false, false},
	} {
		hidden := f.of(&query{name: name, class: miekg.ClassINET})
		if got := [2]bool{hidden.a, hidden.aaaa}; got != want {
			t.Errorf("%s: %v, want %v", name, got, want)
		}
	}
	if hidden := f.of(&query{name: nameHost, class: miekg.ClassINET}); hidden != (families{a: true}) {
		t.Errorf("our own name: %v", hidden)
	}
}
