package main

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/portolan-net/portolan/bench/report"
)

func main() {
	if len(os.Args) != 4 {
		fmt.Fprintln(os.Stderr, "usage: render RESULTS.json DOCUMENT.md CHARTS/")
		os.Exit(2)
	}
	if err := render(os.Args[1], os.Args[2], os.Args[3]); err != nil {
		fmt.Fprintln(os.Stderr, "render:", err)
		os.Exit(1)
	}
}

// render draws the charts first: without them the document stays as it is.
func render(results, document, charts string) error {
	r, err := report.Read(results)
	if err != nil {
		return err
	}
	seen, err := filepath.Rel(filepath.Dir(document), charts)
	if err != nil {
		return fmt.Errorf("name charts from the document: %w", err)
	}
	if err := os.MkdirAll(charts, 0o755); err != nil {
		return fmt.Errorf("make folder of charts: %w", err)
	}
	for _, group := range r.Groups() {
		if err := drawChart(filepath.Join(charts, report.ChartName(group)), r.Group(group)); err != nil {
			return fmt.Errorf("draw chart %q: %w", group, err)
		}
	}
	return r.Insert(document, filepath.ToSlash(seen))
}
