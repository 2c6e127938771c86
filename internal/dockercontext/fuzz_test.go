package dockercontext

import (
	"os"
	"path/filepath"
	"testing"
)

// A context that is not known for ours is never removed.
func FuzzRemove(f *testing.F) {
	f.Add([]byte(`{"Name": "portolan", "Metadata": {"` + marker + `": true}, "Endpoints": {"docker": {"Host": "unix:///x"}}}`))
	f.Add([]byte(`{"Metadata": null, "Endpoints": []}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		d := Dir(t.TempDir())
		path := d.metaFile("portolan")
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, text, 0o600); err != nil {
			t.Fatal(err)
		}
		m, found, err := d.read("portolan")
		ours := err == nil && found && m.Endpoints["docker"].Host == "unix:///x"
		removed, err := d.Remove("portolan", "unix:///x")
		if removed != ours || err != nil {
			t.Errorf("%q: removed %v, %v, want %v", text, removed, err, ours)
		}
	})
}
