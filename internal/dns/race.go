package dns

import (
	"errors"
	"time"

	miekg "github.com/miekg/dns"
)

// The race between the host's resolvers.
//
// Theory of operation. resolv.conf lists its servers in order of preference, and
// a host's own stub resolver asks the second only after the first has been silent
// for 5 s. That order matters, since the first may be a VPN's resolver which alone
// knows the company's names; but its time-out is what makes one dead server
// feel like a dead network. So the servers are asked in order (upstream.go), each
// next one after hedgeDelay or at once after a failure, and of their answers
//
//	positive (records, or TC)    wins at once
//	negative (NXDOMAIN, no data) wins when no trusted server before it is still
//	                             silent, or courtesy after the query came
//	SERVFAIL, REFUSED, NOTIMP    counts only if nobody says anything better
//	nothing                      after silence the query ends with SERVFAIL; but if
//	                             one of those asked has answered somebody else
//	                             meanwhile, so that it is slow and not dead,
//	                             only after patience
//
// The losers of a race are listened to until silence has passed, because their
// answers, or the lack of them, are what health is made of.
const (
	hedgeDelay = 200 * time.Millisecond
	courtesy   = 700 * time.Millisecond
	silence    = 1800 * time.Millisecond
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
	silent  []bool // by index: asked and neither answered nor failed
	running int

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
	r.running++
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
	r.running--
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
	return r.running == 0 && r.started == len(r.plan)
}

// verdict is the best that there is, and whose it is.
func (r *race) verdict() (index int, answer []byte, err error) {
	if r.best != nil {
		return r.bestIndex, r.best, nil
	}
	if r.err != nil && r.running == 0 {
		return 0, nil, r.err
	}
	return 0, nil, errSilence
}
