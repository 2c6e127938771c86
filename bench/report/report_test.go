package report

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const small = `{"taken": "2026-01-02T03:04:05Z", "seconds": 7, "quick": true, "rounds": 3,
"environment": [{"name": "kernel", "value": "Linux 1.2"}],
"contestants": [{"name": "loopback", "mtu": 65536, "reference": true},
 {"name": "kernel forwarding", "mtu": 65520, "reference": true}, {"name": "pasta", "mtu": 65520}, {"name": "Portolan", "mtu": 65520, "what": "ours"}],
"absent": [{"name": "gvproxy", "value": "not installed"}],
"rows": [
 {"id": "bulk-out/1", "group": "Bulk, out", "title": "1 flow", "unit": "Gbit/s", "limit": {"of": "loopback", "factor": 0.5},
  "entries": [{"name": "loopback", "samples": [40, 60, 40]}, {"name": "kernel forwarding", "samples": [20, 20, 20]},
   {"name": "pasta", "samples": [4, 5, 6]}, {"name": "Portolan", "samples": [10, 30, 15]}]},
 {"id": "requests/out-p50", "group": "Requests", "title": "p50", "unit": "us", "less": true,
  "entries": [{"name": "pasta", "samples": [50, 90, 60]}, {"name": "Portolan", "samples": [80, 85, 120]}]},
 {"id": "bulk-published/1", "group": "Bulk, published", "title": "1 flow", "unit": "Gbit/s", "limit": {"of": "loopback", "factor": 0.5},
  "entries": [{"name": "kernel forwarding", "samples": [20, 20, 20]}, {"name": "portolan connect", "samples": [11, 13, 14]}]}]}`

// load writes results to a file and reads them as the program does.
func load(t *testing.T) *Report {
	t.Helper()
	path := filepath.Join(t.TempDir(), "results.json")
	if err := os.WriteFile(path, []byte(small), 0o600); err != nil {
		t.Fatal(err)
	}
	r, err := Read(path)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestMarkdown(t *testing.T) {
	path := filepath.Join(t.TempDir(), "doc.md")
	if err := os.WriteFile(path, []byte("by hand\n"+begin+"\nstale\n"+end+"\nbelow\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for range 2 { // the second time changes nothing
		if err := load(t).Insert(path, "charts"); err != nil {
			t.Fatal(err)
		}
	}
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"by hand\n" + begin, end + "\nbelow\n",
		"Taken 2026-01-02 in 7 s",
		"![Bulk, out](charts/bulk-out.svg)",
		"| Bulk, out, 1 flow | at least 0.75 of kernel forwarding | 0.75 | met |",
		"| Bulk, out, 1 flow | no peer better | 2.50 of pasta | met |",
		"| Bulk, published, 1 flow | portolan connect at least 0.60 of kernel forwarding | 0.65 | met |",
		"| Requests, p50 | at most 1.00 of pasta | 1.60 | missed |",
		"| Portolan | 15.0 (10.0–30.0) |",
		"| *wins* | Portolan |",
		"| *wins* | pasta, not clearly |",
		"| *limit* | 20.0 (0.5 × loopback) |",
		"| *Portolan, of the limit* | 0.75 |",
		"- gvproxy: not installed",
		"| kernel | Linux 1.2 |",
	} {
		if strings.Count(string(text), want) != 1 {
			t.Errorf("the document has %q %d times, want once", want, strings.Count(string(text), want))
		}
	}
	if strings.Contains(string(text), "stale") {
		t.Error("the old tables are still there")
	}
	if t.Failed() {
		t.Logf("%s", text)
	}
}

func TestInsertNeedsItsPlace(t *testing.T) {
	path := filepath.Join(t.TempDir(), "doc.md")
	if err := os.WriteFile(path, []byte("by hand\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := load(t).Insert(path, ""); err == nil || !strings.Contains(err.Error(), path) {
		t.Errorf("insert: %v, want an error that names the file", err)
	}
}

func TestShort(t *testing.T) {
	for value, want := range map[float64]string{0: "0", 0.123: "0.12", 12.34: "12.3", 99.99: "100", 999.7: "1,000", 1234.5: "1,235", 123456: "123,456", 1999.9: "2,000"} {
		if got := Short(value); got != want {
			t.Errorf("Short(%v) = %q, want %q", value, got, want)
		}
	}
}
