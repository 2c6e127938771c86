// Command render writes what docs/benchmarks.md shows of a benchmark's results:
// the generated part of that document, and a chart for each group.
//
//	render RESULTS.json DOCUMENT.md CHARTS/
//
// It is a module of its own, so that the plotting library stays out of
// Portolan's.
package main
