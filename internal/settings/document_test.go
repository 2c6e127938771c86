package settings

import (
	"bytes"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write the generated parts of docs/")

// docs is the folder of the generated documents.
const docs = "../../docs"

// The marks around the generated table of settings.md.
const begin, end = "<!-- generated from internal/settings: go test ./internal/settings -update -->\n", "<!-- end -->\n"

func TestDocuments(t *testing.T) {
	page := filepath.Join(docs, "settings.md")
	text, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	before, rest, ok := strings.Cut(string(text), begin)
	_, after, closed := strings.Cut(rest, end)
	if !ok || !closed {
		t.Fatalf("%s has lost the marks of its table", page)
	}
	for path, want := range map[string][]byte{
		page: []byte(before + begin + Markdown() + end + after),
		filepath.Join(docs, "settings.schema.json"):       Schema(false),
		filepath.Join(docs, "admin-settings.schema.json"): Schema(true),
	} {
		if *update {
			if err := os.WriteFile(path, want, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		if have, err := os.ReadFile(path); err != nil || !bytes.Equal(have, want) {
			t.Errorf("%s differs from the schema (%v); type: go test ./internal/settings -update", path, err)
		}
	}
}
