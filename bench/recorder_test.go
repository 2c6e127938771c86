package bench

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/portolan-net/portolan/bench/report"
)

var (
	quick   = flag.Bool("quick", false, "fewer and shorter rounds")
	smoke   = flag.Bool("smoke", false, "one round, as short as can be: does everything run?")
	results = flag.String("results", "", "the file that gets the results as JSON, besides the tables on the standard output")
)

// effort says how much is measured.
type effort struct {
	rounds  int           // of whatever carries traffic
	bulk    time.Duration // of one run of many bytes or datagrams
	small   time.Duration // of one run of small requests
	runs    int           // docker run
	ups     int           // portolan up
	idleFor time.Duration // before memory is read
}

func chosen() effort {
	switch {
	case *smoke:
		return effort{1, 100 * time.Millisecond, 50 * time.Millisecond, 1, 1, time.Second}
	case *quick:
		return effort{2, 150 * time.Millisecond, 100 * time.Millisecond, 4, 2, 3 * time.Second}
	}
	return effort{5, 2 * time.Second, time.Second, 25, 5, 10 * time.Second}
}

// recorder collects the samples of one run.
type recorder struct {
	report.Report

	dropped map[string]bool // row and contestant of which a round is missing
}

func newRecorder() *recorder {
	return &recorder{
		Report:  report.Report{Taken: time.Now(), Quick: *quick || *smoke, Rounds: chosen().rounds},
		dropped: make(map[string]bool),
	}
}

// column is what a row says about itself.
type column struct {
	id, title, unit string
	less            bool
	limit           report.Limit
}

// add appends a sample to a row, which is made when it is the first.
func (r *recorder) add(group string, c column, name string, value float64) {
	if r.skips(c, name) {
		return
	}
	row := r.Row(c.id)
	if row == nil {
		row = &report.Row{ID: c.id, Group: group, Title: c.title, Unit: c.unit, Less: c.less, Limit: c.limit}
		r.Rows = append(r.Rows, row)
	}
	row.Add(name, value)
}

// skips says whether a contestant is out of a row.
func (r *recorder) skips(c column, name string) bool { return r.dropped[c.id+name] }

// drop says that a contestant did not do what a row, or several, measure.
func (r *recorder) drop(name string, err error, columns ...column) {
	for _, c := range columns {
		r.dropped[c.id+name] = true
		if row := r.Row(c.id); row != nil {
			row.Drop(name)
		}
	}
	what := name
	if len(columns) > 0 {
		what += ", " + columns[0].id
	}
	r.absent(what, err)
}

func (r *recorder) absent(what string, err error) {
	if !slices.ContainsFunc(r.Absent, func(f report.Fact) bool { return f.Name == what }) {
		r.Absent = append(r.Absent, report.Fact{Name: what, Value: err.Error()})
	}
}

// finish prints the tables and writes the results.
func (r *recorder) finish(t testing.TB) {
	t.Helper()
	r.Seconds = int(time.Since(r.Taken).Seconds())
	r.Rows = slices.DeleteFunc(r.Rows, func(row *report.Row) bool { return len(row.Entries) == 0 })
	r.Markdown(os.Stdout, "")
	if *results != "" {
		check(t, os.MkdirAll(filepath.Dir(*results), 0o755))
		check(t, r.Write(*results))
	}
}

var uniquePort atomic.Int32

// newPort returns a port of the lab's host that nothing else of the benchmarks has.
func newPort() string { return fmt.Sprint(6200 + uniquePort.Add(1)) }
