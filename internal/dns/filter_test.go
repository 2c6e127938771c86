package dns

import (
	"bytes"
	"strings"
	"testing"

	miekg "github.com/miekg/dns"
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
