package daemon

import (
	"strings"
	"testing"

	"github.com/portolan-net/portolan/internal/api"
)

// A start is given up when the engine ends again and again before it answers.
// What an earlier daemon saw does not count, and a new agent may count anew.
func TestHopelessEngine(t *testing.T) {
	first := api.Engine{Version: "29"}
	for _, c := range []struct {
		name    string
		reports []api.Engine
		want    bool
	}{
		{"three ends", []api.Engine{first, {Restarts: 1}, {Restarts: 2}, {Restarts: 3}}, true},
		{"two ends", []api.Engine{first, {Restarts: 1}, {Restarts: 2}}, false},
		{"counted anew", []api.Engine{first, {Restarts: 3}, first, {Restarts: 3}}, true},
		{"taken over", []api.Engine{{Restarts: 4}, {Restarts: 5}}, false},
		{"it answered", []api.Engine{first, {Ready: true}, {Restarts: 2}, {Restarts: 3}}, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			d := daemon{ready: make(chan struct{}), hopeless: make(chan struct{})}
			for _, report := range c.reports {
				d.setEngine(report)
			}
			if got := closed(d.hopeless); got != c.want {
				t.Errorf("given up = %v, want %v", got, c.want)
			}
		})
	}
}

func TestParseAgentLog(t *testing.T) {
	const ended = `time=1 level=WARN msg="agent ended" status=256` + "\n"
	const reason = "portolan-agent: find portolan-shim beside portolan-agent: no such file"
	for _, c := range []struct {
		name, log string
		deaths    int
		word      string
	}{
		{"nothing", "", 0, ""},
		{"alive", "time=1 level=INFO msg=ready\n", 0, "time=1 level=INFO msg=ready"},
		{"reason first", reason + "\n" + ended + reason + "\n" + ended, 2, reason},
		{"without a word", ended + ended, 2, ended[:len(ended)-1]},
		{"not to be executed", `time=1 level=ERROR msg="start agent" err="exec format error"` + "\n", 1, `time=1 level=ERROR msg="start agent" err="exec format error"`},
	} {
		if deaths, word := parseAgentLog(c.log); deaths != c.deaths || word != c.word {
			t.Errorf("%s: %d deaths, last word %q; want %d, %q", c.name, deaths, word, c.deaths, c.word)
		}
	}
}

// Whatever the machine's processes write: a line of it, and no more deaths than lines.
func FuzzParseAgentLog(f *testing.F) {
	f.Add("msg=\"agent ended\" code=2\npanic: x\n\n  \r\n")
	f.Fuzz(func(t *testing.T, log string) {
		deaths, word := parseAgentLog(log)
		if deaths > strings.Count(log, "\n")+1 || strings.Contains(word, "\n") || !strings.Contains(log, word) {
			t.Errorf("parseAgentLog(%q) = %d, %q", log, deaths, word)
		}
	})
}
