package dns

import (
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"

	miekg "github.com/miekg/dns"

	"github.com/portolan-net/portolan/internal/system"
)

// searchHost is a resolver that knows some names, and what it was asked.
type searchHost struct {
	*resolver
	mu    sync.Mutex
	asked []string
}

func startSearchHost(t *testing.T) *searchHost {
	h := &searchHost{}
	known := map[string]string{
		"wiki.corp.test.": "192.0.2.1", "wiki.lab.test.": "192.0.2.2", "nas.lab.test.": "192.0.2.3",
		"db.prod.corp.test.": "192.0.2.4", "db.eu.": "192.0.2.5", "db.eu.corp.test.": "192.0.2.6", "router.": "192.0.2.7",
	}
	h.resolver = startResolver(t, func(query []byte, _ netip.AddrPort, _ transport) [][]byte {
		question := unpackQuery(query).Question[0]
		h.mu.Lock()
		h.asked = append(h.asked, question.Name)
		h.mu.Unlock()
		switch name := strings.ToLower(question.Name); {
		case strings.HasPrefix(name, "broken.corp"):
			return [][]byte{rcodeAnswer(query, miekg.RcodeServerFailure)}
		case known[name] == "":
			return [][]byte{rcodeAnswer(query, miekg.RcodeNameError)}
		case question.Qtype != miekg.TypeA:
			return [][]byte{rcodeAnswer(query, miekg.RcodeSuccess)}
		default:
			return [][]byte{addressAnswer(query, known[name])}
		}
	})
	return h
}

// since returns what was asked since the last call, without repetitions.
func (h *searchHost) since() []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	asked := slices.Compact(h.asked)
	h.asked = nil
	return asked
}

func TestSearch(t *testing.T) {
	h := startSearchHost(t)
	cfg := resolverConfig(h.resolver)
	cfg.Hosts = system.ParseHosts([]byte("203.0.113.9 printer\n"))
	cfg.Resolver.Search, cfg.Resolver.NDots = []string{"corp.test", ".", "lab.test"}, 2
	s := runServer(t, Config{}, cfg)
	for _, c := range []struct {
		name  string
		qtype uint16
		rcode int
		want  string // names and addresses of the answer
		asked string
	}{
		{"wiki", miekg.TypeA, miekg.RcodeSuccess, "wiki.corp.test. 192.0.2.1", "wiki.corp.test."},
		{"WiKi", miekg.TypeA, miekg.RcodeSuccess, "WiKi.corp.test. 192.0.2.1", "WiKi.corp.test."},
		{"nas", miekg.TypeA, miekg.RcodeSuccess, "nas.lab.test. 192.0.2.3", "nas.corp.test. nas.lab.test."},
		{"router", miekg.TypeA, miekg.RcodeSuccess, "192.0.2.7", "router.corp.test. router.lab.test. router."},
		{"nobody", miekg.TypeA, miekg.RcodeNameError, "", "nobody.corp.test. nobody.lab.test. nobody."},
		// It exists, which is the answer, though without an address of that family.
		{"wiki", miekg.TypeAAAA, miekg.RcodeSuccess, "wiki.corp.test.", "wiki.corp.test."},
		// Nobody can say whether it exists.
		{"broken", miekg.TypeA, miekg.RcodeServerFailure, "", "broken.corp.test. broken.lab.test. broken."},
		{"printer", miekg.TypeA, miekg.RcodeSuccess, "203.0.113.9", ""},
		{"localhost", miekg.TypeA, miekg.RcodeSuccess, "127.0.0.1", ""},
		// Fewer dots than ndots.
		{"db.eu", miekg.TypeA, miekg.RcodeSuccess, "192.0.2.5", "db.eu."},
		{"db.prod", miekg.TypeA, miekg.RcodeSuccess, "db.prod.corp.test. 192.0.2.4", "db.prod. db.prod.corp.test."},
		// Whole names, and types that are not addresses.
		{"a.db.prod", miekg.TypeA, miekg.RcodeNameError, "", "a.db.prod."},
		{"wiki", miekg.TypeMX, miekg.RcodeNameError, "", "wiki."},
	} {
		for _, size := range []int{0, 1232} {
			query := ask(c.name, c.qtype, func(m *miekg.Msg) {
				if size > 0 {
					m.SetEdns0(uint16(size), false)
				}
			})
			m, _ := s.udp(t, query)
			if got := answerText(m); m.Rcode != c.rcode || got != c.want || m.Question[0].Name != c.name+"." {
				t.Errorf("%s %s is %s %q, want %s %q", c.name, miekg.TypeToString[c.qtype], miekg.RcodeToString[m.Rcode], got, miekg.RcodeToString[c.rcode], c.want)
			}
			if got := strings.Join(h.since(), " "); got != c.asked {
				t.Errorf("%s %s: asked %q, want %q", c.name, miekg.TypeToString[c.qtype], got, c.asked)
			}
		}
	}
	if addrs, err := s.Lookup(t.Context(), "nas"); err != nil || len(addrs) != 1 || addrs[0].String() != "192.0.2.3" {
		t.Errorf("Lookup: %v, %v", addrs, err)
	}
	e, err := s.Explain(t.Context(), "nas", "A")
	if err != nil || e.Server != h.addr || len(e.Records) != 2 || !strings.Contains(e.Records[0], "CNAME nas.lab.test.") {
		t.Errorf("Explain: %+v, %v", e, err)
	}
}

// A label of 63 letters, and domains with which a name is too long.
func TestSearchTooLong(t *testing.T) {
	h := startSearchHost(t)
	cfg := resolverConfig(h.resolver)
	domain := strings.TrimSuffix(strings.Repeat(strings.Repeat("d", 62)+".", 4), ".")
	cfg.Resolver.Search = []string{domain, "lab.test"}
	s := runServer(t, Config{}, cfg)
	m, _ := s.udp(t, ask("nas", miekg.TypeA))
	if got := answerText(m); got != "nas.lab.test. 192.0.2.3" {
		t.Errorf("nas is %q", got)
	}
	if got := h.since(); !slices.Equal(got, []string{"nas.lab.test."}) {
		t.Errorf("asked %q", got)
	}
}

// Without a resolver that answers, the search ends with the first name.
func TestSearchWithoutResolver(t *testing.T) {
	cfg := resolverConfig(refusing(t))
	cfg.Resolver.Search = []string{"a.test", "b.test"}
	s := runServer(t, Config{}, cfg)
	if m, _ := s.udp(t, ask("wiki", miekg.TypeA)); m.Rcode != miekg.RcodeServerFailure || m.Question[0].Name != "wiki." {
		t.Errorf("it is %v", m)
	}
}

// answerText is what the answer's records say: names that others lead to, addresses.
func answerText(m *miekg.Msg) string {
	var texts []string
	for _, rr := range m.Answer {
		switch rr := rr.(type) {
		case *miekg.CNAME:
			texts = append(texts, rr.Target)
		case *miekg.A:
			texts = append(texts, rr.A.String())
		}
	}
	return strings.Join(texts, " ")
}
