package dns

import (
	"fmt"
	"strings"
	"testing"

	miekg "github.com/miekg/dns"
)

// TestRace plays outcomes into a race of three and looks at every step. A step is
// "start", or INDEX=OUTCOME; a result is the winner, "waits" or "".
func TestRace(t *testing.T) {
	query := ask("www.example", miekg.TypeA)
	messages := map[string][]byte{
		"ip":  addressAnswer(query, "192.0.2.1"),
		"nx":  rcodeAnswer(query, miekg.RcodeNameError),
		"no":  rcodeAnswer(query, miekg.RcodeSuccess),
		"sf":  rcodeAnswer(query, miekg.RcodeServerFailure),
		"ref": rcodeAnswer(query, miekg.RcodeRefused),
	}
	for _, c := range []struct {
		name    string
		trusted string // by index, y or n
		steps   string
		want    string // result of each step; "-" is none
	}{
		{"first positive wins", "yyy", "start 0=ip", "- ip"},
		{"positive of a later one wins", "yyy", "start start 1=ip", "- - ip"},
		{"negative of the first wins", "yyy", "start start 0=nx", "- - nx"},
		{"negative waits for the trusted", "yyy", "start start 1=nx 0=ip", "- - waits ip"},
		{"negative of the preferred one", "yyy", "start start start 2=nx 1=no 0=sf", "- - - waits waits no"},
		{"negative waits until the trusted fails", "yyy", "start start 1=nx 0=err", "- - waits nx"},
		{"negative does not wait for the down", "nyy", "start start 1=nx", "- - nx"},
		{"refusals wait for all", "yyy", "start 0=sf start 1=ref start 2=sf", "- - - - - sf"},
		{"refusal beats error", "yyy", "start 0=err start 1=ref start 2=err", "- - - - - ref"},
		{"negative beats refusal", "yyy", "start 0=sf start 1=nx", "- - - nx"},
		{"errors only", "yyy", "start 0=err start 1=err start 2=err", "- - - - - err"},
	} {
		t.Run(c.name, func(t *testing.T) {
			plan := make([]candidate, len(c.trusted))
			for i := range plan {
				plan[i].trusted = c.trusted[i] == 'y'
			}
			r := newRace(plan)
			var got []string
			for step := range strings.FieldsSeq(c.steps) {
				got = append(got, play(t, r, step, messages))
			}
			if strings.Join(got, " ") != c.want {
				t.Errorf("steps %q give %q, want %q", c.steps, got, c.want)
			}
		})
	}
}

// play takes one step and names what the race says then.
func play(t *testing.T, r *race, step string, messages map[string][]byte) string {
	t.Helper()
	nameOf := func(answer []byte) string {
		for name, msg := range messages {
			if string(msg) == string(answer) {
				return name
			}
		}
		return "?"
	}
	if step == "start" {
		if !r.wantsMore() {
			t.Fatal("the race wants no more starts")
		}
		r.start()
		return "-"
	}
	o := outcome{index: int(step[0] - '0')}
	if o.answer = messages[step[2:]]; o.answer == nil {
		o.err = fmt.Errorf("ask: %s", step)
	}
	winner := r.take(o)
	switch {
	case winner != nil:
		return nameOf(winner)
	case r.over():
		_, answer, err := r.verdict()
		if err != nil {
			return "err"
		}
		return nameOf(answer)
	case r.waits():
		if r.wantsMore() {
			t.Error("a race that waits starts more")
		}
		return "waits"
	}
	return "-"
}

func TestVerdictOfSilence(t *testing.T) {
	r := newRace(make([]candidate, 1))
	r.start()
	if _, answer, err := r.verdict(); answer != nil || err != errSilence {
		t.Errorf("verdict = % x, %v", answer, err)
	}
}

func TestTruncatedIsPositive(t *testing.T) {
	answer := rcodeAnswer(ask("www.example", miekg.TypeA), miekg.RcodeSuccess)
	answer[2] |= flagTC
	if m := meritOf(answer); m != positive {
		t.Errorf("merit = %d", m)
	}
}
