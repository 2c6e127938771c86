package main

import (
	"encoding/xml"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const results = `{"taken": "2026-01-02T03:04:05Z", "rounds": 2, "rows": [
 {"id": "a/1", "group": "Bulk, out", "title": "1 flow", "unit": "Gbit/s",
  "entries": [{"name": "pasta", "samples": [4, 5]}, {"name": "Portolan", "samples": [10, 30]}]},
 {"id": "a/4", "group": "Bulk, out", "title": "4 flows", "unit": "Gbit/s", "entries": []},
 {"id": "b/1", "group": "Memory", "title": "idle", "unit": "MiB", "less": true,
  "entries": [{"name": "Portolan", "samples": [0]}]}]}`

func TestRender(t *testing.T) {
	dir := t.TempDir()
	path := func(name string) string { return filepath.Join(dir, name) }
	write(t, path("results.json"), results)
	write(t, path("doc.md"), "<!-- generated from benchmarks.json: begin -->\n<!-- generated: end -->\n")
	if err := render(path("results.json"), path("doc.md"), path("charts")); err != nil {
		t.Fatal(err)
	}
	if text := read(t, path("doc.md")); !strings.Contains(text, "](charts/bulk-out.svg)") {
		t.Errorf("the document shows no chart:\n%s", text)
	}
	for name, wants := range map[string][]string{"bulk-out.svg": {"1 flow", "Gbit/s", "pasta", "Portolan"}, "memory.svg": {"idle", "MiB"}} {
		text := read(t, filepath.Join(dir, "charts", name))
		wellFormed(t, name, text)
		for _, want := range wants {
			if !strings.Contains(text, want) {
				t.Errorf("%s lacks %q", name, want)
			}
		}
	}
}

func wellFormed(t *testing.T, name, text string) {
	t.Helper()
	for d := xml.NewDecoder(strings.NewReader(text)); ; {
		if _, err := d.Token(); errors.Is(err, io.EOF) {
			return
		} else if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
	}
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func read(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}
