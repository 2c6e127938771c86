// Package report is what the benchmarks found, as data: rows of samples, who was
// measured, and on what computer. It writes the tables of docs/benchmarks.md.
// Package bench fills it in, and bench/render draws its charts; it measures
// nothing itself, and needs the standard library only.
package report

import (
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"time"
)

// Names of contestants that others are compared with.
const (
	Loopback   = "loopback"
	Forwarding = "kernel forwarding"
	Plain      = "plain engine"
	Pasta      = "pasta"
	Portolan   = "Portolan"
	Connect    = "portolan connect"
	ByHand     = "CONNECT by the container"
)

// Report is one run of the benchmarks.
type Report struct {
	Taken       time.Time    `json:"taken"`   // its beginning
	Seconds     int          `json:"seconds"` // how long it took
	Quick       bool         `json:"quick"`   // fewer and shorter rounds
	Rounds      int          `json:"rounds"`
	Environment []Fact       `json:"environment"`
	Contestants []Contestant `json:"contestants"`
	Absent      []Fact       `json:"absent"` // who or what was not measured, and why
	Rows        []*Row       `json:"rows"`
}

// Fact is one thing to know: a version, a kernel setting, a reason.
type Fact struct {
	Name  string `json:"name"`
	Value string `json:"value"`
}

// Contestant is one way to carry traffic.
type Contestant struct {
	Name      string `json:"name"`
	What      string `json:"what"` // in a sentence without its full stop
	MTU       int    `json:"mtu"`
	Reference bool   `json:"reference"` // isolates nothing: a measure for the others, that wins no row
}

// Row is one measurement of several contestants.
type Row struct {
	ID      string   `json:"id"`    // "group/what"
	Group   string   `json:"group"` // heading of the table that it is a column of
	Title   string   `json:"title"` // heading of the column
	Unit    string   `json:"unit"`
	Less    bool     `json:"less"` // less is better
	Limit   Limit    `json:"limit"`
	Entries []*Entry `json:"entries"`
}

// Limit is what no gateway can be better than: Factor times what the contestant
// Of reached. A Factor of 0 means that the row has none.
type Limit struct {
	Of     string  `json:"of"`
	Factor float64 `json:"factor"`
}

// Entry is one contestant's samples in a row, one for each round, in their order.
type Entry struct {
	Name    string    `json:"name"`
	Samples []float64 `json:"samples"`
}

// Read reads a report from a file.
func Read(path string) (*Report, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read results: %w", err)
	}
	r := new(Report)
	if err := json.Unmarshal(text, r); err != nil {
		return nil, fmt.Errorf("read results of %s: %w", path, err)
	}
	return r, nil
}

// Write writes the report to a file.
func (r *Report) Write(path string) error {
	text, err := json.MarshalIndent(r, "", "\t")
	if err != nil {
		return fmt.Errorf("write results: %w", err)
	}
	if err := os.WriteFile(path, append(text, '\n'), 0o644); err != nil {
		return fmt.Errorf("write results: %w", err)
	}
	return nil
}

// Row returns the row with that id, nil when it was not measured.
func (r *Report) Row(id string) *Row {
	for _, row := range r.Rows {
		if row.ID == id {
			return row
		}
	}
	return nil
}

// Groups returns the groups' titles in order of appearance.
func (r *Report) Groups() []string {
	var groups []string
	for _, row := range r.Rows {
		if !slices.Contains(groups, row.Group) {
			groups = append(groups, row.Group)
		}
	}
	return groups
}

// Group returns the rows of one group.
func (r *Report) Group(title string) []*Row {
	var rows []*Row
	for _, row := range r.Rows {
		if row.Group == title {
			rows = append(rows, row)
		}
	}
	return rows
}

// contends says whether a contestant can win a row.
func (r *Report) contends(name string) bool {
	return slices.ContainsFunc(r.Contestants, func(c Contestant) bool { return c.Name == name && !c.Reference })
}
