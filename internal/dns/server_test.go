package dns

import (
	"bytes"
	"log/slog"
	"net/netip"
	"sync/atomic"
	"testing"
	"time"

	miekg "github.com/miekg/dns"

	"github.com/portolan-net/portolan/internal/portolan"
	"github.com/portolan-net/portolan/internal/system"
)

func TestAnswerLargerThanTheClientTakesIsTruncated(t *testing.T) {
	r := startResolver(t, func(query []byte, _ netip.AddrPort, _ transport) [][]byte {
		m := bigAnswer(200)
		copy(m.Question, unpackQuery(query).Question)
		out := mustPack(m)
		copy(out, query[:2])
		return [][]byte{out}
	})
	s := newSetup(t, r)
	for _, size := range []int{512, 1232, 4096} {
		query := ask("www.example", miekg.TypeA, func(m *miekg.Msg) {
			if size > 512 {
				m.SetEdns0(uint16(size), false)
			}
		})
		answer, _ := s.exchangeUDP(query, slack*silence)
		m := unpack(t, answer, query)
		if whole := len(m.Answer) == 200; len(answer) > size || m.Truncated == whole || whole != (size == 4096) {
			t.Errorf("size %d: %d bytes, TC %v, %d records", size, len(answer), m.Truncated, len(m.Answer))
		}
		if m := unpack(t, s.tcp(t, query), query); m.Truncated || len(m.Answer) != 200 {
			t.Errorf("over TCP: TC %v, %d records", m.Truncated, len(m.Answer))
		}
	}
}

func TestTruncatedAnswerStaysSo(t *testing.T) {
	r := startResolver(t, func(query []byte, _ netip.AddrPort, how transport) [][]byte {
		if how == overTCP {
			return [][]byte{addressAnswer(query, "192.0.2.1")}
		}
		answer := rcodeAnswer(query, miekg.RcodeSuccess)
		answer[2] |= flagTC
		return [][]byte{answer}
	})
	s := newSetup(t, r)
	query := ask("www.example", miekg.TypeA)
	if m, _ := s.udp(t, query); !m.Truncated {
		t.Errorf("answer over UDP is %v", m)
	}
	if m := unpack(t, s.tcp(t, query), query); firstA(m) != "192.0.2.1" {
		t.Errorf("answer over TCP is %v", m)
	}
}

func TestWhatIsNoQueryGetsItsDue(t *testing.T) {
	r := answering(t, "192.0.2.1", 0)
	s := newSetup(t, r)
	plain := ask("www.example", miekg.TypeA)
	edit := func(change func(m []byte) []byte) []byte { return change(bytes.Clone(plain)) }
	for _, c := range []struct {
		name string
		raw  []byte
		want int // rcode, -1 for silence
	}{
		{"empty", nil, -1},
		{"short", plain[:11], -1},
		{"answer", edit(func(m []byte) []byte { m[2] |= flagQR; return m }), -1},
		{"no question", edit(func(m []byte) []byte { setCount(m, 0, 0); return m[:12] }), miekg.RcodeFormatError},
		{"two questions", edit(func(m []byte) []byte { setCount(m, 0, 2); return append(m, m[12:]...) }), miekg.RcodeFormatError},
		{"cut", plain[:14], miekg.RcodeFormatError},
		{"UPDATE", edit(func(m []byte) []byte { m[2] |= miekg.OpcodeUpdate << 3; return m }), miekg.RcodeNotImplemented},
	} {
		t.Run(c.name, func(t *testing.T) {
			if c.want < 0 {
				if answer, _ := s.exchangeUDP(c.raw, 100*time.Millisecond); answer != nil {
					t.Errorf("answer is % x", answer)
				}
				return
			}
			if m, _ := s.udp(t, c.raw); m.Rcode != c.want {
				t.Errorf("answer over UDP is %v", m)
			}
			if m := unpack(t, s.tcp(t, c.raw), c.raw); m.Rcode != c.want {
				t.Errorf("answer over TCP is %v", m)
			}
		})
	}
	if n := r.seen.Load(); n != 0 {
		t.Errorf("the resolver saw %d of them", n)
	}
}

func TestQueryIsCopied(t *testing.T) {
	s := newSetup(t, answering(t, "192.0.2.1", 50*time.Millisecond))
	query := ask("www.example", miekg.TypeA)
	kept := bytes.Clone(query)
	answers := make(chan []byte, 1)
	s.HandleUDP(query, container, func(answer []byte) { answers <- answer })
	clear(query)
	select {
	case answer := <-answers:
		if m := unpack(t, answer, kept); firstA(m) != "192.0.2.1" {
			t.Errorf("answer is %v", m)
		}
	case <-time.After(slack * silence):
		t.Error("no answer")
	}
}

// TestOneClientCannotStarveTheOthers, though no resolver answers it.
func TestOneClientCannotStarveTheOthers(t *testing.T) {
	s := newSetup(t, silentServer(t))
	var answered atomic.Int64
	query := ask("www.example", miekg.TypeA)
	began := time.Now()
	for range 20 {
		for range 2 * maxQueriesPerClient / 20 {
			s.HandleUDP(query, container, func([]byte) { answered.Add(1) })
		}
		time.Sleep(time.Millisecond) // the queue is shorter than that many
	}
	if took := time.Since(began); took > silence/2 {
		t.Fatalf("HandleUDP blocks: %v", took)
	}
	other := netip.MustParseAddrPort("172.17.0.3:40000")
	mine := make(chan []byte, 1)
	s.HandleUDP(ask("host.docker.internal", miekg.TypeA), other, func(answer []byte) { mine <- answer })
	select {
	case <-mine:
		if took := time.Since(began); took > silence {
			t.Errorf("the other client's answer took %v", took)
		}
	case <-time.After(slack * silence):
		t.Fatal("the other client has no answer")
	}
	for end := time.Now().Add(slack * silence); answered.Load() < maxQueriesPerClient && time.Now().Before(end); {
		time.Sleep(10 * time.Millisecond)
	}
	if n := answered.Load(); n != maxQueriesPerClient {
		t.Errorf("the flood got %d answers, want %d", n, maxQueriesPerClient)
	}
}

// FuzzQuery sends bytes to a server whose host has no resolver.
func FuzzQuery(f *testing.F) {
	f.Add(ask("host.docker.internal", miekg.TypeA))
	f.Add(ask("app.local", miekg.TypeANY, func(m *miekg.Msg) { m.SetEdns0(4096, true) }))
	f.Add(ask(miekgReverse("fdc4:f303:9324::254"), miekg.TypePTR))
	f.Add([]byte{0, 1, 0, 0, 0, 1, 0, 0, 0, 0, 0, 1, 0xc0, 12, 0, 1, 0, 1})
	s := New(Config{Source: system.NewFakeNames(system.NameConfig{Hosts: system.ParseHosts([]byte(hostsFile))}),
		Log: slog.New(slog.DiscardHandler), Link: portolan.DefaultLink()})
	f.Fuzz(func(t *testing.T, raw []byte) {
		if len(raw) > maxMessage {
			return
		}
		for _, how := range []transport{overUDP, overTCP} {
			kept, calls := bytes.Clone(raw), 0
			var answer []byte
			s.respond(t.Context(), raw, how, func(a []byte) { answer, calls = a, calls+1 })
			if calls != 1 {
				t.Fatalf("deliver was called %d times", calls)
			}
			if !bytes.Equal(raw, kept) {
				t.Fatal("the query was changed")
			}
			if wants := len(raw) >= headerSize && raw[2]&flagQR == 0; wants != (answer != nil) {
				t.Fatalf("answer is % x", answer)
			}
			if answer == nil {
				continue
			}
			var m miekg.Msg
			if err := m.Unpack(answer); err != nil {
				t.Fatalf("answer is malformed: %v\n% x", err, answer)
			}
			if !m.Response || !bytes.Equal(answer[:2], raw[:2]) || m.Opcode != int(raw[2]>>3&0xf) {
				t.Fatalf("answer is not to the query: %v", &m)
			}
		}
	})
}
