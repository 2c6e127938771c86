package dns

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	miekg "github.com/miekg/dns"
)

// TestFailover: what the first query gets, and from then on the others.
func TestFailover(t *testing.T) {
	quick := func(addr string) func(testing.TB) *resolver {
		return func(t testing.TB) *resolver { t.Helper(); return answering(t, addr, 0) }
	}
	const late = turn + 300*time.Millisecond
	slow := func(addr string) func(testing.TB) *resolver {
		return func(t testing.TB) *resolver { t.Helper(); return answering(t, addr, late) }
	}
	rcode := func(rcode int) func(testing.TB) *resolver {
		return func(t testing.TB) *resolver { t.Helper(); return saying(t, rcode) }
	}
	behind := func(addr string) func(testing.TB) *resolver { // in its turn, but not the first to answer
		return func(t testing.TB) *resolver { t.Helper(); return answering(t, addr, turn/2) }
	}
	type list []func(testing.TB) *resolver
	const a, b = "192.0.2.1", "192.0.2.2"
	for _, c := range []struct {
		name    string
		servers list
		want    string // address or rcode
		first   time.Duration
		later   time.Duration
	}{
		{"healthy first", list{quick(a), quick(b)}, a, 0, 0},
		{"first takes its time", list{behind(a), quick(b)}, a, turn / 2, turn / 2},
		{"first takes its time, then NXDOMAIN", list{behind(a), rcode(miekg.RcodeNameError)}, a, turn / 2, turn / 2},
		{"dead first, second takes its time", list{silentServer, behind(a), quick(b)}, a, turn + turn/2, turn / 2},
		{"dead first", list{silentServer, quick(b)}, b, turn, 0},
		{"two dead first", list{silentServer, silentServer, quick(b)}, b, 2 * turn, 0},
		{"refusing first", list{refusing, quick(b)}, b, 0, 0},
		{"slow first", list{slow(a), quick(b)}, b, turn, 0},
		{"slow alone", list{slow(a)}, a, late, late},
		{"SERVFAIL first", list{rcode(miekg.RcodeServerFailure), quick(b)}, b, 0, 0},
		{"REFUSED first", list{rcode(miekg.RcodeRefused), quick(b)}, b, 0, 0},
		{"NOTIMP first", list{rcode(miekg.RcodeNotImplemented), quick(b)}, b, 0, 0},
		{"NXDOMAIN is an answer", list{rcode(miekg.RcodeNameError), quick(b)}, "NXDOMAIN", 0, 0},
		{"no data is an answer", list{rcode(miekg.RcodeSuccess), quick(b)}, "NOERROR", 0, 0},
		{"dead first, then NXDOMAIN", list{silentServer, rcode(miekg.RcodeNameError)}, "NXDOMAIN", silence, 0},
		{"slow first, then NXDOMAIN", list{slow(a), rcode(miekg.RcodeNameError)}, a, late, late},
		{"all refuse", list{refusing, refusing}, "SERVFAIL", 0, 0},
		{"all SERVFAIL", list{rcode(miekg.RcodeServerFailure), rcode(miekg.RcodeServerFailure)}, "SERVFAIL", 0, 0},
		{"REFUSED is passed on", list{refusing, rcode(miekg.RcodeRefused)}, "REFUSED", 0, 0},
		{"none", nil, "SERVFAIL", 0, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			var problem string
			for range tries {
				var resolvers []*resolver
				for _, start := range c.servers {
					resolvers = append(resolvers, start(t))
				}
				s := newSetup(t, resolvers...)
				problem = ""
				for i, want := range []time.Duration{c.first, c.later, c.later, c.later} {
					answer, took := s.addressOrRcode(t)
					// 150 ms: less than any delay that could be wrong here
					if answer != c.want || took > want+150*time.Millisecond {
						problem += fmt.Sprintf("query %d: %s after %v; ", i, answer, took)
					}
				}
				if problem == "" {
					return
				}
			}
			t.Errorf("%swant %s after %v, then %v", problem, c.want, c.first, c.later)
		})
	}
}

// tries is how often a loaded machine may be late before it is our fault.
const tries = 4

// addressOrRcode asks, and names the answer's first address or its rcode.
func (s setup) addressOrRcode(t *testing.T) (string, time.Duration) {
	t.Helper()
	m, took := s.udp(t, ask("www.example", miekg.TypeA))
	if addr := firstA(m); addr != "" {
		return addr, took
	}
	return miekg.RcodeToString[m.Rcode], took
}

func TestAllSilentIsServfailSoon(t *testing.T) {
	t.Parallel()
	s := newSetup(t, silentServer(t), silentServer(t))
	for try := 1; ; try++ {
		m, took := s.udp(t, ask("www.example", miekg.TypeA, func(m *miekg.Msg) { m.SetEdns0(1232, false) }))
		if m.Rcode != miekg.RcodeServerFailure {
			t.Fatalf("answer is %v", m)
		}
		if !strings.Contains(m.String(), errSilence.Error()) {
			t.Errorf("the answer does not say why: %v", m)
		}
		if took >= turn+silence && took <= turn+silence+200*time.Millisecond {
			break
		}
		if try == tries {
			t.Fatalf("SERVFAIL took %v", took)
		}
		s = newSetup(t, silentServer(t), silentServer(t))
	}
	if _, took := s.udp(t, ask("www.example", miekg.TypeA)); took < silence || took > slack*silence {
		t.Errorf("of servers that are down SERVFAIL took %v", took)
	}
	query := ask("www.example", miekg.TypeA)
	began := time.Now()
	if m := unpack(t, s.tcp(t, query), query); m.Rcode != miekg.RcodeServerFailure {
		t.Errorf("answer over TCP is %v", m)
	}
	if took := time.Since(began); took > slack*silence {
		t.Errorf("SERVFAIL over TCP took %v", took)
	}
}

// TestSlowIsNotDead: a name that takes its time is waited for while the resolver
// answers other queries.
func TestSlowIsNotDead(t *testing.T) {
	t.Parallel()
	const hard = silence + 500*time.Millisecond
	r := startResolver(t, func(query []byte, _ netip.AddrPort, _ transport) [][]byte {
		if strings.Contains(string(query), "hard") {
			time.Sleep(hard)
		}
		return [][]byte{addressAnswer(query, "192.0.2.1")}
	})
	s := newSetup(t, r)
	answers := make(chan []byte, 1)
	query := ask("hard.example", miekg.TypeA)
	s.HandleUDP(query, container, func(answer []byte) { answers <- answer })
	time.Sleep(silence / 2)
	s.udp(t, ask("easy.example", miekg.TypeA))
	select {
	case answer := <-answers:
		if m := unpack(t, answer, query); firstA(m) != "192.0.2.1" {
			t.Errorf("answer is %v", m)
		}
	case <-time.After(slack * patience):
		t.Error("no answer")
	}
}

// TestDeadServerIsLeftAlone: it is not asked for every query.
func TestDeadServerIsLeftAlone(t *testing.T) {
	t.Parallel()
	dead, good := silentServer(t), answering(t, "192.0.2.1", 0)
	s := newSetup(t, dead, good)
	query := ask("www.example", miekg.TypeA)
	s.udp(t, query)
	time.Sleep(silence + 100*time.Millisecond) // the race's loser is found dead
	before := dead.seen.Load()
	for range 50 {
		s.udp(t, query)
	}
	if more := dead.seen.Load() - before; more > 1 {
		t.Errorf("50 queries asked the dead server %d times", more)
	}
}
