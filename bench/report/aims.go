package report

import (
	"fmt"
	"io"
	"strings"
)

// aim is what one row is to reach.
type aim struct {
	row  string
	want string
	who  string // whose row it is
	met  func(r *Report, row *Row) (measured string, ok bool)
}

func aims() []aim {
	var all []aim
	for _, way := range []string{"out", "back", "published"} {
		id := "bulk-" + way + "/1"
		all = append(all, aim{id, "at least 0.75 of " + Forwarding, Portolan, against(Forwarding, 0.75)}, aim{id, "no peer better", Portolan, unbeaten})
	}
	return append(all,
		aim{"bulk-published/1", Connect + " at least 0.60 of " + Forwarding, Connect, ratioOf(Connect, Forwarding, 0.6)},
		aim{"proxied/out", "at least 0.90 of " + ByHand, Portolan, against(ByHand, 0.9)},
		aim{"proxied/back", "at least 0.90 of " + ByHand, Portolan, against(ByHand, 0.9)},
		aim{"socket/requests", "at least 0.95 of the engine's own", Portolan, against("the engine's own", 0.95)},
		aim{"socket/archive", "at least 0.95 of the engine's own", Portolan, against("the engine's own", 0.95)},
		aim{"requests/out-p50", "at most 1.00 of " + Pasta, Portolan, against(Pasta, 1)},
		aim{"connects/out-8", "no peer better", Portolan, unbeaten},
		aim{"http/rate", "at least 0.90 of " + Plain, Portolan, against(Plain, 0.9)},
		aim{"udp-out/64", "no peer better", Portolan, unbeaten},
		aim{"udp-out/1400-1g-loss", "under 0.1 percent", Portolan, below(Portolan, 0.1)},
		aim{"idle/10000-all", "at most 0.50 of any peer that holds them", Portolan, halfOfPeers},
		aim{"cpu/out", "at most 2.20 of " + Forwarding, Portolan, against(Forwarding, 2.2)},
		aim{"cpu/back", "at most 2.20 of " + Forwarding, Portolan, against(Forwarding, 2.2)},
		aim{"cpu/published", "at most 2.20 of " + Forwarding, Portolan, against(Forwarding, 2.2)},
		aim{"start/run", "at most 1.10 of " + Plain, Portolan, against(Plain, 1.1)},
		aim{"up/again", "under 5 s", Portolan, below(Portolan, 5)},
		aim{"memory/idle", "under 40 MiB", "daemon", below("daemon", 40)},
	)
}

// aims writes what is to be reached, and what was.
func (r *Report) aims(w io.Writer) {
	fmt.Fprint(w, "\n### Aims\n\n| row | aim | measured | |\n| --- | --- | --- | --- |\n")
	for _, a := range aims() {
		row := r.Row(a.row)
		if row == nil || row.Entry(a.who) == nil {
			fmt.Fprintf(w, "| %s | %s | not measured | |\n", a.row, a.want)
			continue
		}
		measured, ok := a.met(r, row)
		verdict := "missed"
		if ok {
			verdict = "met"
		}
		fmt.Fprintf(w, "| %s, %s | %s | %s | %s |\n", row.Group, row.Title, a.want, measured, verdict)
	}
}

func against(other string, ratio float64) func(*Report, *Row) (string, bool) {
	return ratioOf(Portolan, other, ratio)
}

func ratioOf(name, other string, ratio float64) func(*Report, *Row) (string, bool) {
	return func(_ *Report, row *Row) (string, bool) {
		got, ok := row.Ratio(name, other)
		if !ok {
			return "without " + other, false
		}
		return fmt.Sprintf("%.2f", got), row.Less && got <= ratio || !row.Less && got >= ratio
	}
}

func below(name string, value float64) func(*Report, *Row) (string, bool) {
	return func(_ *Report, row *Row) (string, bool) {
		got := row.Entry(name).Median()
		return Short(got), got < value
	}
}

// peer says whether a contestant is what a user would take in Portolan's place.
func (r *Report) peer(name string) bool {
	return r.contends(name) && !strings.HasPrefix(strings.ToLower(name), strings.ToLower(Portolan)) && !strings.HasPrefix(name, Plain)
}

func unbeaten(r *Report, row *Row) (string, bool) {
	best, _ := row.Best(r.peer)
	if best == nil {
		return "no peer measured", false
	}
	ratio, ok := row.Ratio(Portolan, best.Name)
	return fmt.Sprintf("%.2f of %s", ratio, best.Name), ok && !row.better(best.Median(), row.Entry(Portolan).Median())
}

func halfOfPeers(r *Report, row *Row) (string, bool) {
	held := r.Row("idle/10000-held")
	best, _ := row.Best(func(name string) bool {
		return r.peer(name) && held != nil && held.Entry(name) != nil && held.Entry(name).Median() >= 0.9*10_000
	})
	if best == nil {
		return "no peer holds them", true
	}
	ratio, ok := row.Ratio(Portolan, best.Name)
	return fmt.Sprintf("%.2f of %s", ratio, best.Name), ok && ratio <= 0.5
}
