package dns

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/portolan-net/portolan/internal/portolan"
)

var (
	serverA = netip.MustParseAddrPort("192.0.2.1:53")
	serverB = netip.MustParseAddrPort("192.0.2.2:53")
	serverC = netip.MustParseAddrPort("192.0.2.3:53")
)

// show writes a plan as last digits: "1" in its turn, "1&" together with the next
// one, and "?" behind those that are not trusted.
func show(plan []candidate) string {
	var out []string
	for _, c := range plan {
		addr := c.addr.Addr().String()
		word := addr[len(addr)-1:]
		if c.hedge == 0 {
			word += "&"
		}
		if !c.trusted {
			word += "?"
		}
		out = append(out, word)
	}
	return strings.Join(out, " ")
}

func TestPlanFollowsHealth(t *testing.T) {
	u := &upstreams{}
	servers := []netip.AddrPort{serverA, serverB, serverC}
	now := time.Unix(1000, 0)
	expect := func(want string) {
		t.Helper()
		if got := show(u.plan(now, servers, false)); got != want {
			t.Errorf("plan is %q, want %q", got, want)
		}
	}
	expect("1 2 3")
	a := u.list[0]
	a.lag()
	expect("1& 2 3")
	a.answer(now, hedgeDelay*2)
	expect("1& 2 3")
	a.answer(now, hedgeDelay/2)
	expect("1 2 3")
	a.fail(now, now)
	expect("2 3 1&?")
	a.lag() // late, of an older query: down stays down
	expect("2 3 1&?")

	now = now.Add(minRetry)
	expect("1&? 2 3") // one query tries it,
	expect("2 3 1&?") // the others do not
	a.fail(now, now)
	now = now.Add(minRetry)
	expect("2 3 1&?") // the second time it takes twice as long
	now = now.Add(minRetry)
	expect("1&? 2 3")
	for range 10 {
		a.fail(now, now)
	}
	now = now.Add(maxRetry)
	expect("1&? 2 3")
	a.answer(now, 0)
	expect("1 2 3")
}

func TestFailureOlderThanAnAnswerIsForgotten(t *testing.T) {
	u := &upstream{addr: serverA}
	asked := time.Unix(1000, 0)
	u.answer(asked.Add(time.Second), time.Millisecond)
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
	u.plan(now, []netip.AddrPort{serverA, serverB}, false)
	u.list[0].fail(now, now)
	if got := show(u.plan(now, []netip.AddrPort{serverA, serverC}, false)); got != "1 3" {
		t.Errorf("plan is %q", got)
	}
}

func TestPlanRotatesAndSkipsOwn(t *testing.T) {
	link := portolan.DefaultLink()
	u := &upstreams{own: []portolan.Pair{link.DNS()}}
	servers := []netip.AddrPort{serverA, netip.AddrPortFrom(link.DNS().V4, 53), serverB, netip.AddrPortFrom(link.DNS().V6, 5353), serverC}
	var got []string
	for range 4 {
		got = append(got, show(u.plan(time.Unix(1000, 0), servers, true)))
	}
	if strings.Join(got, ", ") != "2 3 1, 3 1 2, 1 2 3, 2 3 1" {
		t.Errorf("plans are %q", got)
	}
}
