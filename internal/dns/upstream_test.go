package dns

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/portolan-net/portolan/internal/portolan"
	"github.com/portolan-net/portolan/internal/system"
)

var (
	serverA = netip.MustParseAddrPort("192.0.2.1:53")
	serverB = netip.MustParseAddrPort("192.0.2.2:53")
	serverC = netip.MustParseAddrPort("192.0.2.3:53")
)

// show writes a plan as last digits: "1" in its turn, "1&" together with the next
// one, "?" behind those that are not trusted, "!" behind those that nobody could
// know better than.
func show(plan []candidate) string {
	var out []string
	for _, c := range plan {
		addr := c.addr.Addr().String()
		word := addr[len(addr)-1:]
		if c.turn == 0 {
			word += "&"
		}
		if !c.trusted {
			word += "?"
		}
		if c.first {
			word += "!"
		}
		out = append(out, word)
	}
	return strings.Join(out, " ")
}

func TestPlanFollowsHealth(t *testing.T) {
	u := &upstreams{}
	names := namesOf(serverA, serverB, serverC)
	now := time.Unix(1000, 0)
	expect := func(want string) {
		t.Helper()
		if got := show(u.plan(now, names)); got != want {
			t.Errorf("plan is %q, want %q", got, want)
		}
	}
	ask := func(took time.Duration) (asked time.Time) {
		asked = now
		now = now.Add(took)
		return asked
	}
	expect("1! 2 3")
	a := u.list[0]
	asked := ask(turn)
	a.lag(asked)
	expect("1&! 2 3")
	now = now.Add(turn)
	a.answer(now, asked) // once is a hard name
	expect("1! 2 3")
	asked = ask(2 * turn)
	a.answer(now, asked)
	expect("1&! 2 3")
	asked = ask(turn / 2)
	a.answer(now, asked)
	expect("1! 2 3")
	asked = ask(turn / 2)
	a.fail(now, asked)
	expect("2 3 1&?!")
	a.lag(asked) // of an older query: down stays down
	expect("2 3 1&?!")

	now = now.Add(minRetry)
	expect("1&?! 2 3") // one query tries it,
	expect("2 3 1&?!") // the others do not
	a.fail(now, now)
	now = now.Add(minRetry)
	expect("2 3 1&?!") // the second time it takes twice as long
	now = now.Add(minRetry)
	expect("1&?! 2 3")
	for range 10 {
		a.fail(now, now)
	}
	now = now.Add(maxRetry)
	expect("1&?! 2 3")
	a.answer(now, now)
	expect("1! 2 3")
}

// A server that answers other queries is not slow because of one name.
func TestHardNameMakesNobodySlow(t *testing.T) {
	u := &upstream{addr: serverA}
	now := time.Unix(1000, 0)
	for range 2 * tooLate {
		hard := now
		now = now.Add(turn / 2)
		u.answer(now, now)
		now = now.Add(turn)
		u.lag(hard)
		u.answer(now, hard)
		if u.health != prompt {
			t.Fatalf("health is %d", u.health)
		}
	}
}

func namesOf(servers ...netip.AddrPort) *system.NameConfig {
	return &system.NameConfig{Resolver: system.Resolver{Servers: servers}}
}

func TestFailureOlderThanAnAnswerIsForgotten(t *testing.T) {
	u := &upstream{addr: serverA}
	asked := time.Unix(1000, 0)
	u.answer(asked.Add(time.Second), asked.Add(time.Second))
	u.fail(asked.Add(2*time.Second), asked)
	if u.health != prompt {
		t.Errorf("health is %d", u.health)
	}
}

func TestBurstOfFailuresCountsOnce(t *testing.T) {
	u := &upstream{addr: serverA}
	asked := time.Unix(1000, 0)
	for i := range 50 {
		u.fail(asked.Add(silence+time.Duration(i)), asked.Add(time.Duration(i)))
	}
	if u.backoff != minRetry {
		t.Errorf("it is tried again after %v", u.backoff)
	}
}

func TestPlanOfAnotherNetworkStartsClean(t *testing.T) {
	u := &upstreams{}
	now := time.Unix(1000, 0)
	names := namesOf(serverA, serverB)
	u.plan(now, names)
	u.list[0].fail(now, now)
	if got := show(u.plan(now, namesOf(serverA, serverC))); got != "1! 3" {
		t.Errorf("plan of other servers is %q", got)
	}
	u.list[0].fail(now, now)
	elsewhere := namesOf(serverA, serverC)
	elsewhere.Network++
	if got := show(u.plan(now, elsewhere)); got != "1! 3" {
		t.Errorf("plan in another network is %q", got)
	}
}

func TestPlanRotatesAndSkipsOwn(t *testing.T) {
	link := portolan.DefaultLink()
	u := &upstreams{own: []portolan.Pair{link.DNS()}}
	names := namesOf(serverA, netip.AddrPortFrom(link.DNS().V4, 53), serverB, netip.AddrPortFrom(link.DNS().V6, 5353), serverC)
	names.Resolver.Rotate = true
	var got []string
	for range 4 {
		got = append(got, show(u.plan(time.Unix(1000, 0), names)))
	}
	if strings.Join(got, ", ") != "2! 3! 1!, 3! 1! 2!, 1! 2! 3!, 2! 3! 1!" {
		t.Errorf("plans are %q", got)
	}
}
