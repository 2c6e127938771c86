package report

import (
	"fmt"
	"io"
	"os"
	"strings"
)

// The lines between which a document holds what is generated.
const (
	begin = "<!-- generated from benchmarks.json: begin -->"
	end   = "<!-- generated: end -->"
)

// Insert replaces the generated part of the document at path. charts is where
// the charts lie as seen from the document.
func (r *Report) Insert(path, charts string) error {
	old, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("insert tables: %w", err)
	}
	before, rest, found := strings.Cut(string(old), begin)
	_, after, closed := strings.Cut(rest, end)
	if !found || !closed {
		return fmt.Errorf("insert tables: %s lacks the lines %q and %q", path, begin, end)
	}
	var text strings.Builder
	r.Markdown(&text, charts)
	if err := os.WriteFile(path, []byte(before+begin+"\n"+text.String()+end+after), 0o644); err != nil {
		return fmt.Errorf("insert tables: %w", err)
	}
	return nil
}

// Markdown writes aims, tables and surroundings. Each group has a chart in the
// folder charts; none when that is "".
func (r *Report) Markdown(w io.Writer, charts string) {
	kind := "`make bench`"
	if r.Quick {
		kind = "`make bench-quick`: few, short rounds"
	}
	fmt.Fprintf(w, "\nTaken %s in %d s with %s, %d rounds. Each cell: the median, and the least and the most of the rounds.\n",
		r.Taken.UTC().Format("2006-01-02"), r.Seconds, kind, r.Rounds)
	r.aims(w)
	for _, group := range r.Groups() {
		fmt.Fprintf(w, "\n### %s\n", group)
		if charts != "" {
			fmt.Fprintf(w, "\n![%s](%s/%s)\n", group, charts, ChartName(group))
		}
		r.table(w, group)
	}
	r.surroundings(w)
}

// ChartName is the name of a group's chart file.
func ChartName(group string) string {
	return strings.NewReplacer(",", "", "'", "", " ", "-").Replace(strings.ToLower(group)) + ".svg"
}

// table has a line for each contestant, and a column for each row of the group.
func (r *Report) table(w io.Writer, group string) {
	rows := r.Group(group)
	line(w, "", rows, func(row *Row) string { return row.Title + ", " + row.Unit })
	fmt.Fprintln(w, "| --- |"+strings.Repeat(" --- |", len(rows)))
	for _, name := range names(rows) {
		line(w, name, rows, func(row *Row) string {
			if entry := row.Entry(name); entry != nil {
				return entry.String()
			}
			return ""
		})
	}
	line(w, "*wins*", rows, func(row *Row) string {
		best, clear := row.Best(r.contends)
		switch {
		case best == nil || row.contenders(r) < 2:
			return ""
		case !clear:
			return best.Name + ", not clearly"
		}
		return best.Name
	})
	line(w, "*limit*", rows, func(row *Row) string {
		entry := row.Entry(row.Limit.Of)
		if entry == nil || row.Limit.Factor == 0 {
			return ""
		}
		return fmt.Sprintf("%s (%g × %s)", Short(row.Limit.Factor*entry.Median()), row.Limit.Factor, row.Limit.Of)
	})
	line(w, "*Portolan, of the limit*", rows, func(row *Row) string { return quotient(row.OfLimit(Portolan)) })
	line(w, "*Portolan to "+Forwarding+"*", rows, func(row *Row) string { return quotient(row.Ratio(Portolan, Forwarding)) })
}

func quotient(ratio float64, ok bool) string {
	if !ok {
		return ""
	}
	return fmt.Sprintf("%.2f", ratio)
}

// line writes a table's line, unless all its cells are empty.
func line(w io.Writer, head string, rows []*Row, cell func(*Row) string) {
	var cells []string
	for _, row := range rows {
		cells = append(cells, cell(row))
	}
	if strings.Join(cells, "") == "" {
		return
	}
	if head == "" {
		fmt.Fprintln(w)
	}
	fmt.Fprintf(w, "| %s | %s |\n", head, strings.Join(cells, " | "))
}

// names lists the contestants of some rows, each once.
func names(rows []*Row) []string {
	var all []string
	seen := make(map[string]bool)
	for _, row := range rows {
		for _, entry := range row.Entries {
			if !seen[entry.Name] {
				seen[entry.Name] = true
				all = append(all, entry.Name)
			}
		}
	}
	return all
}

// surroundings says who was measured, who was not, and where.
func (r *Report) surroundings(w io.Writer) {
	fmt.Fprint(w, "\n### Who and where\n\n| contestant | MTU | |\n| --- | --- | --- |\n")
	for _, c := range r.Contestants {
		fmt.Fprintf(w, "| %s | %d | %s |\n", c.Name, c.MTU, c.What)
	}
	if len(r.Absent) > 0 {
		fmt.Fprint(w, "\nNot measured:\n\n")
	}
	for _, f := range r.Absent {
		fmt.Fprintf(w, "- %s: %s\n", f.Name, strings.ReplaceAll(f.Value, "\n", " "))
	}
	fmt.Fprint(w, "\n| | |\n| --- | --- |\n")
	for _, f := range r.Environment {
		fmt.Fprintf(w, "| %s | %s |\n", f.Name, f.Value)
	}
	fmt.Fprintln(w)
}
