package dns

import (
	"strings"
	"testing"

	miekg "github.com/miekg/dns"

	"github.com/portolan-net/portolan/internal/portolan"
	"github.com/portolan-net/portolan/internal/system"
)

const hostsFile = `
127.0.0.1 localhost
127.0.1.1 laptop.example laptop
::1 ip6-localhost ip6-loopback laptop
127.0.0.1 app.local
127.0.0.2 app.local
192.0.2.10 nas.example nas
2001:db8::10 nas.example
192.0.2.66 host.docker.internal
0.0.0.0 ads.example
`

// TestLocalAnswers asks without any resolver: what is not local is SERVFAIL.
func TestLocalAnswers(t *testing.T) {
	const forwarded = "SERVFAIL"
	for _, c := range []struct{ name, qtype, want string }{
		{"host.docker.internal", "A", "192.168.65.254"},
		{"host.docker.internal", "AAAA", "fdc4:f303:9324::254"},
		{"HOST.docker.Internal", "A", "192.168.65.254"},
		{"host.docker.internal", "MX", ""},
		{"host.docker.internal", "HTTPS", ""},
		{"host.docker.internal", "ANY", "192.168.65.254 fdc4:f303:9324::254"},
		{"gateway.docker.internal", "A", "192.168.65.1"},
		{"gateway.docker.internal", "AAAA", "fdc4:f303:9324::1"},
		{"http.docker.internal", "A", "192.168.65.1"},
		{"http.docker.internal", "AAAA", "fdc4:f303:9324::1"},
		{"vm.docker.internal", "A", "192.168.65.3"},
		{"vm.docker.internal", "AAAA", "fdc4:f303:9324::3"},
		{"docker.internal", "A", forwarded},
		{"x.host.docker.internal", "A", forwarded},
		{"host.docker.internal.corp.example", "A", forwarded},

		{"254.65.168.192.in-addr.arpa", "PTR", "host.docker.internal."},
		{"254.65.168.192.in-addr.arpa", "TXT", ""},
		{"1.65.168.192.in-addr.arpa", "PTR", "gateway.docker.internal."},
		{"3.65.168.192.IN-ADDR.arpa", "PTR", "vm.docker.internal."},
		{"9.65.168.192.in-addr.arpa", "PTR", forwarded},
		{miekgReverse("fdc4:f303:9324::254"), "PTR", "host.docker.internal."},
		{miekgReverse("fdc4:f303:9324::1"), "PTR", "gateway.docker.internal."},
		{miekgReverse("fdc4:f303:9324::3"), "PTR", "vm.docker.internal."},
		{miekgReverse("2001:db8::99"), "PTR", forwarded},
		{"1.0.0.127.in-addr.arpa", "PTR", "localhost."},
		{"1.1.0.127.in-addr.arpa", "PTR", "localhost."},
		{miekgReverse("::1"), "PTR", "localhost."},
		{"10.2.0.192.in-addr.arpa", "PTR", "nas.example."},
		{"10.2.0.192.in-addr.arpa", "TXT", forwarded},
		{"2.0.192.in-addr.arpa", "PTR", forwarded},

		{"localhost", "A", "127.0.0.1"},
		{"localhost", "AAAA", "::1"},
		{"web.localhost", "A", "127.0.0.1"},
		{"localhost", "MX", ""},
		{"ip6-localhost", "AAAA", "::1"},
		{"ip6-loopback", "A", ""},
		{"localhost6", "AAAA", forwarded},

		{"laptop", "A", "192.168.65.254"},
		{"laptop", "AAAA", "fdc4:f303:9324::254"},
		{"laptop.example", "AAAA", ""},
		{"app.local", "A", "192.168.65.254"},
		{"app.local", "AAAA", ""},
		{"app.local", "TXT", forwarded},
		{"NAS.example", "A", "192.0.2.10"},
		{"nas.example", "AAAA", "2001:db8::10"},
		{"nas", "AAAA", ""},
		{"ads.example", "A", "0.0.0.0"},
		{"other.example", "A", forwarded},
	} {
		t.Run(c.name+" "+c.qtype, func(t *testing.T) {
			s := runServer(t, Config{}, system.NameConfig{Hosts: system.ParseHosts([]byte(hostsFile))})
			m, _ := s.udp(t, ask(c.name, miekg.StringToType[c.qtype]))
			if got := describe(m); got != c.want {
				t.Errorf("answer is %q, want %q", got, c.want)
			}
		})
	}
}

func miekgReverse(addr string) string {
	name, err := miekg.ReverseAddr(addr)
	if err != nil {
		panic(err)
	}
	return name
}

// describe names the answers' data, or the rcode that is not NOERROR.
func describe(m *miekg.Msg) string {
	if m.Rcode != miekg.RcodeSuccess {
		return miekg.RcodeToString[m.Rcode]
	}
	var out []string
	for _, rr := range m.Answer {
		out = append(out, strings.TrimPrefix(rr.String(), rr.Header().String()))
	}
	return strings.Join(out, " ")
}

func TestNoAAAAWithoutIPv6(t *testing.T) {
	works := false
	l := local{link: portolan.DefaultLink(), ipv6: func() bool { return works }}
	hosts := system.ParseHosts([]byte("::1 app.local\n2001:db8::10 nas.example\n"))
	for _, c := range []struct{ name, without, with string }{
		{"host.docker.internal", "", "fdc4:f303:9324::254"},
		{"gateway.docker.internal", "", "fdc4:f303:9324::1"},
		{"vm.docker.internal", "", "fdc4:f303:9324::3"},
		{"app.local", "", "fdc4:f303:9324::254"},
		{"localhost", "::1", "::1"},
		{"nas.example", "2001:db8::10", "2001:db8::10"}, // the host's business
	} {
		for _, works = range []bool{false, true} {
			query := ask(c.name, miekg.TypeAAAA)
			q, err := parseQuery(query)
			if err != nil {
				t.Fatal(err)
			}
			answer, known := l.answer(q, hosts)
			if !known {
				t.Fatalf("%s is not known", c.name)
			}
			want := c.without
			if works {
				want = c.with
			}
			if got := describe(unpack(t, answer, query)); got != want {
				t.Errorf("%s with IPv6 %v: %q, want %q", c.name, works, got, want)
			}
		}
	}
}

func TestLocalAnswerHeader(t *testing.T) {
	s := newSetup(t)
	m, _ := s.udp(t, ask("Host.Docker.Internal", miekg.TypeA, func(m *miekg.Msg) {
		m.SetEdns0(4096, true)
		m.CheckingDisabled = true
	}))
	if !m.RecursionDesired || !m.RecursionAvailable || !m.CheckingDisabled || m.Truncated {
		t.Errorf("header is %v", m.MsgHdr)
	}
	if m.Question[0].Name != "Host.Docker.Internal." {
		t.Errorf("question is %v", m.Question)
	}
	if opt := m.IsEdns0(); opt == nil || !opt.Do() || opt.Version() != 0 {
		t.Errorf("OPT is %v", opt)
	}
	if m, _ := s.udp(t, ask("host.docker.internal", miekg.TypeA)); m.IsEdns0() != nil {
		t.Errorf("a query without OPT got %v", m)
	}
	m, _ = s.udp(t, ask("host.docker.internal", miekg.TypeA, func(m *miekg.Msg) {
		m.SetEdns0(4096, false)
		m.IsEdns0().SetVersion(1)
	}))
	if m.Rcode != miekg.RcodeBadVers || len(m.Answer) != 0 {
		t.Errorf("answer to EDNS version 1 is %v", m)
	}
}

func TestChangedHostsFileIsUsedAtOnce(t *testing.T) {
	s := newSetup(t)
	query := ask("nas.example", miekg.TypeA)
	for _, addr := range []string{"192.0.2.10", "192.0.2.11"} {
		s.names.Set(system.NameConfig{Hosts: system.ParseHosts([]byte(addr + " nas.example"))})
		if m, _ := s.udp(t, query); firstA(m) != addr {
			t.Errorf("answer is %v, want %s", m, addr)
		}
	}
}

func TestHostsNameThatDoesNotPackIsServfail(t *testing.T) {
	long := strings.Repeat("x", 64) + ".example" // a label has 63 at most
	s := runServer(t, Config{}, system.NameConfig{Hosts: system.ParseHosts([]byte("192.0.2.10 " + long))})
	if m, _ := s.udp(t, ask("10.2.0.192.in-addr.arpa", miekg.TypePTR)); m.Rcode != miekg.RcodeServerFailure {
		t.Errorf("answer is %v", m)
	}
}

func TestReverseAddr(t *testing.T) {
	for _, c := range []struct{ name, want string }{
		{"4.3.2.1.in-addr.arpa", "1.2.3.4"},
		{"04.3.2.1.in-addr.arpa", ""},
		{"256.3.2.1.in-addr.arpa", ""},
		{"3.2.1.in-addr.arpa", ""},
		{"5.4.3.2.1.in-addr.arpa", ""},
		{"in-addr.arpa", ""},
		{strings.TrimSuffix(miekgReverse("2001:db8::1f"), "."), "2001:db8::1f"},
		{"1." + strings.TrimSuffix(miekgReverse("2001:db8::1f"), "."), ""},
		{strings.Repeat("g.", 32) + "ip6.arpa", ""},
		{strings.Repeat("0", 63) + ".ip6.arpa", ""},
		{strings.Repeat(".", 63) + ".ip6.arpa", ""},
		{"ip6.arpa", ""},
		{"example", ""},
	} {
		addr, ok := reverseAddr(c.name)
		if ok != (c.want != "") || ok && addr.String() != c.want {
			t.Errorf("reverseAddr(%s) = %v, %v, want %q", c.name, addr, ok, c.want)
		}
	}
}
