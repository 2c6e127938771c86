package main

import (
	"errors"
	"image/color"
	"os"
	"slices"

	"github.com/portolan-net/portolan/bench/report"
	"gonum.org/v1/plot"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
	"gonum.org/v1/plot/vg/vgsvg"
)

const (
	columns     = 3 // panels beside each other
	panelWidth  = 11 * vg.Centimeter
	panelHeight = 7 * vg.Centimeter
)

// drawChart writes an SVG with a panel for each row: bars of medians, with whiskers
// from the least to the most.
func drawChart(path string, rows []*report.Row) (err error) {
	rows = slices.DeleteFunc(slices.Clone(rows), func(row *report.Row) bool { return len(row.Entries) == 0 })
	if len(rows) == 0 {
		return nil
	}
	wide := min(columns, len(rows))
	high := (len(rows) + wide - 1) / wide
	canvas := vgsvg.New(panelWidth*vg.Length(wide), panelHeight*vg.Length(high))
	tiles := draw.Tiles{Rows: high, Cols: wide, PadX: vg.Millimeter * 4, PadLeft: vg.Millimeter * 4, PadRight: vg.Millimeter * 4, PadY: vg.Millimeter * 4}
	for i, row := range rows {
		p, err := panel(row)
		if err != nil {
			return err
		}
		p.Draw(tiles.At(draw.New(canvas), i%wide, i/wide))
	}
	file, err := os.Create(path)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	_, err = canvas.WriteTo(file)
	return err
}

// panel is one row's bars, the first contestant on top.
func panel(row *report.Row) (*plot.Plot, error) {
	p := plot.New()
	p.Title.Text, p.X.Label.Text, p.X.Min = row.Title, row.Unit, 0
	var medians plotter.Values
	var names []string
	spread := spreads{}
	for _, entry := range slices.Backward(row.Entries) {
		middle := entry.Median()
		medians, names = append(medians, middle), append(names, entry.Name)
		spread.XYs = append(spread.XYs, plotter.XY{X: middle, Y: float64(len(names) - 1)})
		spread.XErrors = append(spread.XErrors, struct{ Low, High float64 }{middle - slices.Min(entry.Samples), slices.Max(entry.Samples) - middle})
	}
	bars, err := plotter.NewBarChart(medians, 9)
	if err != nil {
		return nil, err
	}
	bars.Horizontal, bars.LineStyle.Width, bars.Color = true, 0, color.RGBA{0x4c, 0x78, 0xa8, 0xff}
	whiskers, err := plotter.NewXErrorBars(spread)
	if err != nil {
		return nil, err
	}
	p.Add(bars, whiskers)
	p.NominalY(names...)
	return p, nil
}

// spreads implements what plotter.NewXErrorBars wants.
type spreads struct {
	plotter.XYs
	plotter.XErrors
}
