package bench

import (
	"fmt"
	"io"
	"slices"
	"strings"
)

// table holds one measurement's numbers: a column of samples for each
// contestant, one sample for each round, in the order of the rounds.
type table struct {
	title string
	unit  string
	rows  []string
	of    map[string][]float64
}

func newTable(title, unit string) *table {
	return &table{title: title, unit: unit, of: make(map[string][]float64)}
}

func (t *table) add(row string, value float64) {
	if _, known := t.of[row]; !known {
		t.rows = append(t.rows, row)
	}
	t.of[row] = append(t.of[row], value)
}

// print writes the table as Markdown, with each row's ratio to each of the
// rows in to.
func (t *table) print(w io.Writer, to ...string) {
	fmt.Fprintf(w, "\n%s\n\n| %s | median | least | most |", t.title, t.unit)
	for _, other := range to {
		fmt.Fprintf(w, " to %s |", other)
	}
	fmt.Fprintf(w, "\n| --- |%s\n", strings.Repeat(" --- |", 3+len(to)))
	for _, row := range t.rows {
		v := t.of[row]
		fmt.Fprintf(w, "| %s | %s | %s | %s |", row, short(median(v)), short(slices.Min(v)), short(slices.Max(v)))
		for _, other := range to {
			fmt.Fprintf(w, " %.2f |", t.ratio(row, other))
		}
		fmt.Fprintln(w)
	}
}

// ratio is the median of the rounds' ratios, 0 when one of the two was not measured.
func (t *table) ratio(row, other string) float64 {
	var ratios []float64
	for i := range min(len(t.of[row]), len(t.of[other])) {
		ratios = append(ratios, t.of[row][i]/t.of[other][i])
	}
	return median(ratios)
}

// short gives a number three digits that count.
func short(v float64) string {
	switch {
	case v >= 100:
		return fmt.Sprintf("%.0f", v)
	case v >= 10:
		return fmt.Sprintf("%.1f", v)
	}
	return fmt.Sprintf("%.2f", v)
}

func median(values []float64) float64 {
	if len(values) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(values))
	middle := len(sorted) / 2
	if len(sorted)%2 == 1 {
		return sorted[middle]
	}
	return (sorted[middle-1] + sorted[middle]) / 2
}
