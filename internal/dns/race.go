package dns

import (
	"errors"
	"slices"
	"time"

	miekg "github.com/miekg/dns"
)

// The race between the host's resolvers.
//
// Theory of operation. resolv.conf lists its servers in order of preference, and
// that order matters: the first may be a VPN's resolver, which alone knows the
// company's names and alone is to hear of them. A host's own stub resolver asks the
// second only after the first has been silent for 5 s, which makes one dead server
// feel like a dead network. So the order holds here, too, but a server is waited
// for alone for one turn only, and not at all while it is known to be slow or down
// (upstream.go). The next one is asked when the turn is over, or at once after a
// failure. Of the answers
//
//	positive (records, or TC)    wins at once: who stands before has had its turn
//	negative (NXDOMAIN, no data) wins when no trusted server before it is still
//	                             silent; silence ends that trust
//	SERVFAIL, REFUSED, NOTIMP    counts only if nobody says anything better
//	nothing                      a server that says nothing to anybody for silence is
//	                             down; if all are, the query ends with SERVFAIL. One
//	                             that has answered somebody else meanwhile is slow
//	                             and not dead, and has until patience
//
// The losers of a race are listened to until silence has passed, because their
// answers, or the lack of them, are what health is made of.
const (
	// turn lets a resolver on another continent answer, and be asked a second time
	// when a datagram was lost (resendAfter).
	turn    = time.Second
	silence = 1800 * time.Millisecond
	// patience is below the 4 s after which the engine's own resolver gives up
	// (moby, daemon/libnetwork/resolver.go: extIOTimeout), and glibc's 5 s.
	patience = 3500 * time.Millisecond
)

// Why a forwarded query has no answer.
var (
	errNoServers = errors.New("the host has no resolver that could be asked")
	errSilence   = errors.New("no resolver of the host answers")
	errTransfer  = errors.New("zone transfers are not forwarded")
)

// merit of an answer, the best first.
type merit uint8

const (
	positive merit = iota
	negative
	refusal
)

func meritOf(answer []byte) merit {
	switch answer[3] & 0xf {
	case miekg.RcodeServerFailure, miekg.RcodeNotImplemented, miekg.RcodeRefused:
		return refusal
	case miekg.RcodeSuccess:
		if count(answer, 1) > 0 || answer[2]&flagTC != 0 {
			return positive
		}
	}
	return negative
}

// outcome is how asking one candidate ended.
type outcome struct {
	index  int // in the plan
	answer []byte
	err    error
}

// race is the state of one query: who runs, and the best answer so far. It knows
// no clock and no socket.
type race struct {
	plan    []candidate
	started int
	silent  []bool // by index: asked, and neither answered, failed nor given up

	best      []byte // of negative and refusal; nil: none
	bestMerit merit
	bestIndex int
	err       error // of the first that failed

	decided bool
}

func newRace(plan []candidate) *race {
	return &race{plan: plan, silent: make([]bool, len(plan))}
}

// start returns the next candidate's index.
func (r *race) start() int {
	r.silent[r.started] = true
	r.started++
	return r.started - 1
}

// wantsMore reports whether the next candidate may be asked: there is one, and no
// negative answer waits already.
func (r *race) wantsMore() bool {
	return !r.decided && r.started < len(r.plan) && (r.best == nil || r.bestMerit == refusal)
}

// take notes an outcome, and returns the answer if it wins at once.
func (r *race) take(o outcome) (winner []byte) {
	r.silent[o.index] = false
	if o.err != nil {
		if r.err == nil {
			r.err = o.err
		}
		return nil
	}
	m := meritOf(o.answer)
	if m == positive {
		return o.answer
	}
	if r.best == nil || m < r.bestMerit || m == r.bestMerit && o.index < r.bestIndex {
		r.best, r.bestMerit, r.bestIndex = o.answer, m, o.index
	}
	return nil
}

// giveUp expects nothing more of a candidate.
func (r *race) giveUp(index int) { r.silent[index] = false }

// running reports whether a candidate may still answer.
func (r *race) running() bool { return slices.Contains(r.silent, true) }

// waits reports whether a negative answer is there that lets others go first.
func (r *race) waits() bool {
	if r.best == nil || r.bestMerit == refusal {
		return false
	}
	for i := range r.bestIndex {
		if r.silent[i] && r.plan[i].trusted {
			return true
		}
	}
	return false
}

// over reports whether the race can be decided without waiting for anything more.
func (r *race) over() bool {
	if r.best != nil && r.bestMerit == negative {
		return !r.waits()
	}
	return !r.running() && r.started == len(r.plan)
}

// verdict is the best that there is, and whose it is.
func (r *race) verdict() (index int, answer []byte, err error) {
	if r.best != nil {
		return r.bestIndex, r.best, nil
	}
	if r.err != nil && !r.running() {
		return 0, nil, r.err
	}
	return 0, nil, errSilence
}
