package report

import (
	"fmt"
	"slices"
)

// Add appends a sample of a contestant.
func (row *Row) Add(name string, value float64) {
	entry := row.Entry(name)
	if entry == nil {
		entry = &Entry{Name: name}
		row.Entries = append(row.Entries, entry)
	}
	entry.Samples = append(entry.Samples, value)
}

// Drop forgets a contestant, of whom a round is missing.
func (row *Row) Drop(name string) {
	row.Entries = slices.DeleteFunc(row.Entries, func(e *Entry) bool { return e.Name == name })
}

// Entry returns a contestant's samples, nil without any.
func (row *Row) Entry(name string) *Entry {
	for _, entry := range row.Entries {
		if entry.Name == name {
			return entry
		}
	}
	return nil
}

// Ratio is the median of the rounds' ratios of one contestant to another; not
// ok when one of the two was not measured, or was zero.
func (row *Row) Ratio(name, other string) (ratio float64, ok bool) {
	a, b := row.Entry(name), row.Entry(other)
	if a == nil || b == nil {
		return 0, false
	}
	var ratios []float64
	for i := range min(len(a.Samples), len(b.Samples)) {
		if b.Samples[i] != 0 {
			ratios = append(ratios, a.Samples[i]/b.Samples[i])
		}
	}
	return Median(ratios), len(ratios) > 0
}

// OfLimit says how close a contestant comes to the row's limit: 1 is there,
// less is worse, whatever the row counts.
func (row *Row) OfLimit(name string) (share float64, ok bool) {
	ratio, ok := row.Ratio(name, row.Limit.Of)
	if !ok || row.Limit.Factor == 0 || ratio == 0 {
		return 0, false
	}
	if row.Less {
		return row.Limit.Factor / ratio, true
	}
	return ratio / row.Limit.Factor, true
}

// Best returns the contestant with the best median among those that counts
// lets take part; clear unless the next one's samples overlap. nil without any.
func (row *Row) Best(counts func(name string) bool) (best *Entry, clear bool) {
	var next *Entry
	for _, entry := range row.Entries {
		switch {
		case !counts(entry.Name):
		case best == nil || row.better(entry.Median(), best.Median()):
			best, next = entry, best
		case next == nil || row.better(entry.Median(), next.Median()):
			next = entry
		}
	}
	if best == nil || next == nil {
		return best, best != nil
	}
	if row.Less {
		return best, slices.Max(best.Samples) < slices.Min(next.Samples)
	}
	return best, slices.Min(best.Samples) > slices.Max(next.Samples)
}

// contenders is how many take part who can win.
func (row *Row) contenders(r *Report) (n int) {
	for _, entry := range row.Entries {
		if r.contends(entry.Name) {
			n++
		}
	}
	return n
}

func (row *Row) better(a, b float64) bool {
	if row.Less {
		return a < b
	}
	return a > b
}

// Median is the median of the samples.
func (e *Entry) Median() float64 { return Median(e.Samples) }

// String is the median, and the least and the most behind it.
func (e *Entry) String() string {
	middle, least, most := Short(e.Median()), Short(slices.Min(e.Samples)), Short(slices.Max(e.Samples))
	if least == most {
		return middle
	}
	return fmt.Sprintf("%s (%s–%s)", middle, least, most)
}

// Median is 0 without values.
func Median(values []float64) float64 {
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

// Short gives a number about three digits that count.
func Short(v float64) string {
	switch {
	case v >= 999.5:
		return fmt.Sprintf("%d,%03d", int(v+0.5)/1000, int(v+0.5)%1000)
	case v >= 99.95 || v == 0:
		return fmt.Sprintf("%.0f", v)
	case v >= 9.995:
		return fmt.Sprintf("%.1f", v)
	}
	return fmt.Sprintf("%.2f", v)
}
