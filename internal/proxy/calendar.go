package proxy

import (
	"slices"
	"strconv"
	"strings"
	"time"
)

// The names of PAC's calendar functions, in the order of package time.
var (
	pacDays   = []string{"SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT"}
	pacMonths = []string{"JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC"}
)

// cutGMT takes a last argument "GMT", and moves the time there.
func cutGMT(now time.Time, args []string) (time.Time, []string) {
	if n := len(args); n > 0 && strings.EqualFold(args[n-1], "GMT") {
		return now.UTC(), args[:n-1]
	}
	return now, args
}

// between reports whether x lies from a to b; where b comes before a, the range
// goes over the end of the week, day or year.
func between(a, x, b int) bool {
	if a <= b {
		return a <= x && x <= b
	}
	return x >= a || x <= b
}

// weekdayRange(day [, day] [, "GMT"])
func weekdayRange(now time.Time, args []string) bool {
	now, args = cutGMT(now, args)
	if len(args) < 1 || len(args) > 2 {
		return false
	}
	from, to := slices.Index(pacDays, strings.ToUpper(args[0])), slices.Index(pacDays, strings.ToUpper(args[len(args)-1]))
	return from >= 0 && to >= 0 && between(from, int(now.Weekday()), to)
}

// timeRange(hour), (hour, hour), (h, m, h, m), (h, m, s, h, m, s), each with
// "GMT". A range of hours ends with the second one, one of minutes likewise.
func timeRange(now time.Time, args []string) bool {
	now, args = cutGMT(now, args)
	n := make([]int, len(args))
	for i, arg := range args {
		var err error
		if n[i], err = strconv.Atoi(strings.TrimSpace(arg)); err != nil {
			return false
		}
	}
	second := now.Hour()*3600 + now.Minute()*60 + now.Second()
	switch len(n) {
	case 1:
		return now.Hour() == n[0]
	case 2:
		return between(n[0], now.Hour(), n[1])
	case 4:
		return between(n[0]*3600+n[1]*60, second, n[2]*3600+n[3]*60+59)
	case 6:
		return between(n[0]*3600+n[1]*60+n[2], second, n[3]*3600+n[4]*60+n[5])
	}
	return false
}

// date is one end of a dateRange; 0 stands for a part that is not given.
type date struct{ year, month, day int }

// readDate takes numbers up to 31 for days, others for years, and names for
// months.
func readDate(args []string) (d date, ok bool) {
	for _, arg := range args {
		part, n := &d.month, slices.Index(pacMonths, strings.ToUpper(arg))+1
		if n == 0 {
			var err error
			if n, err = strconv.Atoi(strings.TrimSpace(arg)); err != nil || n < 1 || n > 9999 {
				return d, false
			}
			if part = &d.year; n <= 31 {
				part = &d.day
			}
		}
		if *part != 0 {
			return d, false
		}
		*part = n
	}
	return d, true
}

// shape says which parts are given.
func (d date) shape() [3]bool { return [3]bool{d.year != 0, d.month != 0, d.day != 0} }

// number orders dates of one shape.
func (d date) number() int { return d.year*10000 + d.month*100 + d.day }

// dateRange(day), (day, day), (month), (month, month), (year), (year, year),
// (day, month, day, month), (month, year, month, year) and (day, month, year,
// day, month, year), each with "GMT".
func dateRange(now time.Time, args []string) bool {
	now, args = cutGMT(now, args)
	first, last := args, args
	if len(args) > 1 {
		if len(args)%2 != 0 {
			return false
		}
		first, last = args[:len(args)/2], args[len(args)/2:]
	}
	from, ok1 := readDate(first)
	to, ok2 := readDate(last)
	if !ok1 || !ok2 || len(args) == 0 || from.shape() != to.shape() {
		return false
	}
	today := date{}
	if from.year != 0 {
		today.year = now.Year()
	}
	if from.month != 0 {
		today.month = int(now.Month())
	}
	if from.day != 0 {
		today.day = now.Day()
	}
	if from.year != 0 && from.number() > to.number() {
		return false // years do not come again
	}
	return between(from.number(), today.number(), to.number())
}
