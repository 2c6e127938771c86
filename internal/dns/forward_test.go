package dns

import (
	"bytes"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"

	miekg "github.com/miekg/dns"

	"github.com/portolan-net/portolan/internal/portolan"
)

// TestEveryByteButTheIDPasses: whatever is asked and answered, in both directions.
func TestEveryByteButTheIDPasses(t *testing.T) {
	cookie := func(m *miekg.Msg) {
		m.SetEdns0(4096, true)
		m.IsEdns0().Option = append(m.IsEdns0().Option,
			&miekg.EDNS0_COOKIE{Code: miekg.EDNS0COOKIE, Cookie: "0011223344556677"},
			&miekg.EDNS0_LOCAL{Code: 65001, Data: []byte{1, 2, 3}})
		m.CheckingDisabled, m.AuthenticatedData = true, true
	}
	chaos := func(m *miekg.Msg) { m.Question[0].Qclass = miekg.ClassCHAOS }
	unknown := func(query []byte, qtype uint16) []byte {
		out := append([]byte(nil), query...)
		out[2] |= flagQR
		setCount(out, 1, 1)
		setCount(out, 3, 0)
		q, err := parseQuery(query)
		if err != nil {
			panic(err)
		}
		// an answer record with a compressed owner and data that nobody can read
		return append(out[:q.questionEnd], 0xc0, headerSize, byte(qtype>>8), byte(qtype), 0, 1, 0, 0, 0, 9, 0, 3, 0xff, 0, 0xc0)
	}
	for _, c := range []struct {
		name  string
		query []byte
	}{
		{"A", ask("www.example", miekg.TypeA)},
		{"mixed case", ask("wWw.ExAmPle", miekg.TypeAAAA)},
		{"MX", ask("example", miekg.TypeMX)},
		{"HTTPS", ask("example", miekg.TypeHTTPS)},
		{"DNSKEY, cookies, unknown option", ask("example", miekg.TypeDNSKEY, cookie)},
		{"type 65280", ask("example", 65280, cookie)},
		{"ANY", ask("example", miekg.TypeANY)},
		{"class CH", ask("version.bind", miekg.TypeTXT, chaos)},
		{"root", ask(".", miekg.TypeNS)},
		{"binary label", ask(`a\000\255\.b.example`, miekg.TypeTXT)},
		{"trailing bytes", append(ask("example", miekg.TypeA), "garbage"...)},
	} {
		t.Run(c.name, func(t *testing.T) {
			var mu sync.Mutex
			var got, sent []byte
			r := startResolver(t, func(query []byte, _ netip.AddrPort, _ transport) [][]byte {
				mu.Lock()
				defer mu.Unlock()
				got, sent = query, unknown(query, 65281)
				return [][]byte{sent}
			})
			s := newSetup(t, r)
			overUDP, _ := s.exchangeUDP(c.query, slack*silence)
			for how, answer := range map[string][]byte{"UDP": overUDP, "TCP": s.tcp(t, c.query)} {
				if len(answer) < headerSize {
					t.Fatalf("no answer over %s", how)
				}
				mu.Lock()
				if !bytes.Equal(got[2:], c.query[2:]) {
					t.Errorf("the resolver saw\n% x, the query was\n% x", got, c.query)
				}
				if !bytes.Equal(answer[:2], c.query[:2]) || !bytes.Equal(answer[2:], sent[2:]) {
					t.Errorf("the client saw over %s\n% x, the answer was\n% x", how, answer, sent)
				}
				mu.Unlock()
			}
		})
	}
}

func TestQueriesDifferInIDAndPort(t *testing.T) {
	var mu sync.Mutex
	ids, ports := map[[2]byte]bool{}, map[uint16]bool{}
	r := startResolver(t, func(query []byte, from netip.AddrPort, _ transport) [][]byte {
		mu.Lock()
		ids[[2]byte(query[:2])], ports[from.Port()] = true, true
		mu.Unlock()
		return [][]byte{addressAnswer(query, "192.0.2.1")}
	})
	s := newSetup(t, r)
	query := ask("www.example", miekg.TypeA)
	const n = 64
	for range n {
		s.udp(t, query)
	}
	mu.Lock()
	defer mu.Unlock()
	if len(ids) < n-2 || len(ports) < n/2 {
		t.Errorf("%d queries had %d ids and %d ports", n, len(ids), len(ports))
	}
}

func TestForgedAnswersAreIgnored(t *testing.T) {
	forgeries := map[string]func(query, answer []byte) []byte{
		"wrong id":       func(_, a []byte) []byte { a[1] ^= 1; return a },
		"wrong question": func(_, a []byte) []byte { a[headerSize+1] ^= 3; return a },
		"wrong type":     func(q, a []byte) []byte { a[len(q)-3] ^= 3; return a },
		"wrong class":    func(q, a []byte) []byte { a[len(q)-1] ^= 3; return a },
		"a query":        func(_, a []byte) []byte { a[2] &^= flagQR; return a },
		"no question":    func(_, a []byte) []byte { setCount(a, 0, 0); return a },
		"too short":      func(_, a []byte) []byte { return a[:headerSize-1] },
		"cut":            func(q, a []byte) []byte { return a[:len(q)-1] },
	}
	for name, forge := range forgeries {
		t.Run(name, func(t *testing.T) {
			r := startResolver(t, func(query []byte, _ netip.AddrPort, _ transport) [][]byte {
				return [][]byte{forge(query, addressAnswer(query, "203.0.113.6")), addressAnswer(query, "192.0.2.1")}
			})
			m, _ := newSetup(t, r).udp(t, ask("www.example", miekg.TypeA))
			if got := firstA(m); got != "192.0.2.1" {
				t.Errorf("answer is %q", got)
			}
		})
	}
}

func TestAnswersFromElsewhereAreIgnored(t *testing.T) {
	for _, from := range []string{"127.0.0.1:0", "127.0.0.2"} {
		t.Run(from, func(t *testing.T) {
			var port atomic.Uint32
			honest := startResolver(t, func(query []byte, client netip.AddrPort, _ transport) [][]byte {
				local := from
				if local == "127.0.0.2" { // the right port of another address
					local = fmt.Sprintf("127.0.0.2:%d", port.Load())
				}
				conn, err := net.ListenPacket("udp4", local)
				if err != nil {
					t.Errorf("open the forger's socket: %v", err)
					return nil
				}
				defer conn.Close()
				if _, err := conn.WriteTo(addressAnswer(query, "203.0.113.6"), net.UDPAddrFromAddrPort(client)); err != nil {
					t.Errorf("send the forgery: %v", err)
				}
				return [][]byte{addressAnswer(query, "192.0.2.1")}
			})
			port.Store(uint32(honest.addr.Port()))
			m, _ := newSetup(t, honest).udp(t, ask("www.example", miekg.TypeA))
			if got := firstA(m); got != "192.0.2.1" {
				t.Errorf("answer is %q", got)
			}
		})
	}
}

func TestAnswerInOtherLetterCaseIsTaken(t *testing.T) {
	r := startResolver(t, func(query []byte, _ netip.AddrPort, _ transport) [][]byte {
		answer := addressAnswer(query, "192.0.2.1")
		copy(answer[headerSize:], bytes.ToLower(query[headerSize:len(query)-questionRR]))
		return [][]byte{answer}
	})
	m, _ := newSetup(t, r).udp(t, ask("WWW.Example", miekg.TypeA))
	if firstA(m) != "192.0.2.1" || m.Question[0].Name != "www.example." {
		t.Errorf("answer is %v", m)
	}
}

func TestLostDatagramIsSentAgain(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	lost := map[[2]byte]bool{}
	r := startResolver(t, func(query []byte, _ netip.AddrPort, _ transport) [][]byte {
		mu.Lock()
		defer mu.Unlock()
		if id := [2]byte(query[:2]); !lost[id] {
			lost[id] = true
			return nil
		}
		return [][]byte{addressAnswer(query, "192.0.2.1")}
	})
	m, took := newSetup(t, r).udp(t, ask("www.example", miekg.TypeA))
	if firstA(m) != "192.0.2.1" || took < resendAfter {
		t.Errorf("after %v: %v", took, m)
	}
}

func TestOwnAddressesAreNotAsked(t *testing.T) {
	own := portolan.DefaultLink()
	s := newSetup(t)
	cfg := resolverConfig()
	for _, place := range []portolan.Pair{own.DNS(), own.Gateway(), own.Host(), own.Machine()} {
		cfg.Resolver.Servers = append(cfg.Resolver.Servers, netip.AddrPortFrom(place.V4, 53), netip.AddrPortFrom(place.V6, 53))
	}
	s.names.Set(cfg)
	if m, took := s.udp(t, ask("www.example", miekg.TypeA)); m.Rcode != miekg.RcodeServerFailure || took > silence/2 {
		t.Errorf("after %v: %v", took, m)
	}
	honest := answering(t, "192.0.2.1", 0)
	cfg.Resolver.Servers = append(cfg.Resolver.Servers, honest.addr)
	s.names.Set(cfg)
	if m, took := s.udp(t, ask("www.example", miekg.TypeA)); firstA(m) != "192.0.2.1" || took > silence/2 {
		t.Errorf("after %v: %v", took, m)
	}
}

func TestUseVCAsksOverTCP(t *testing.T) {
	r := startResolver(t, func(query []byte, _ netip.AddrPort, how transport) [][]byte {
		if how == overUDP {
			return [][]byte{addressAnswer(query, "203.0.113.6")}
		}
		return [][]byte{addressAnswer(query, "192.0.2.1")}
	})
	cfg := resolverConfig(r)
	cfg.Resolver.UseVC = true
	m, _ := runServer(t, Config{}, cfg).udp(t, ask("www.example", miekg.TypeA))
	if firstA(m) != "192.0.2.1" {
		t.Errorf("answer is %v", m)
	}
}

func TestRotateSpreadsQueries(t *testing.T) {
	a, b := answering(t, "192.0.2.1", 0), answering(t, "192.0.2.2", 0)
	cfg := resolverConfig(a, b)
	cfg.Resolver.Rotate = true
	s := runServer(t, Config{}, cfg)
	for range 20 {
		s.udp(t, ask("www.example", miekg.TypeA))
	}
	if a.seen.Load() < 5 || b.seen.Load() < 5 {
		t.Errorf("20 queries went to two servers %d and %d times", a.seen.Load(), b.seen.Load())
	}
}

func TestChangedResolversAreUsedAtOnce(t *testing.T) {
	s := newSetup(t, answering(t, "192.0.2.1", 0))
	query := ask("www.example", miekg.TypeA)
	if m, _ := s.udp(t, query); firstA(m) != "192.0.2.1" {
		t.Fatalf("answer is %v", m)
	}
	s.names.Set(resolverConfig(answering(t, "192.0.2.2", 0)))
	if m, _ := s.udp(t, query); firstA(m) != "192.0.2.2" {
		t.Errorf("answer after the change is %v", m)
	}
}

func TestZoneTransfersAreRefused(t *testing.T) {
	r := answering(t, "192.0.2.1", 0)
	s := newSetup(t, r)
	for _, qtype := range []uint16{miekg.TypeAXFR, miekg.TypeIXFR} {
		query := ask("example", qtype)
		if m := unpack(t, s.tcp(t, query), query); m.Rcode != miekg.RcodeRefused {
			t.Errorf("answer is %v", m)
		}
	}
	if n := r.seen.Load(); n != 0 {
		t.Errorf("the resolver saw %d queries", n)
	}
}

func TestDownAndBackAgain(t *testing.T) {
	t.Parallel()
	var up atomic.Bool
	r := startResolver(t, func(query []byte, _ netip.AddrPort, _ transport) [][]byte {
		if !up.Load() {
			return nil
		}
		return [][]byte{addressAnswer(query, "192.0.2.1")}
	})
	s := newSetup(t, r)
	query := ask("www.example", miekg.TypeA)
	if m, _ := s.udp(t, query); m.Rcode != miekg.RcodeServerFailure {
		t.Fatalf("answer of a dead server is %v", m)
	}
	up.Store(true)
	if m, took := s.udp(t, query); firstA(m) != "192.0.2.1" || took > silence/2 {
		t.Errorf("back again, after %v: %v", took, m)
	}
}
