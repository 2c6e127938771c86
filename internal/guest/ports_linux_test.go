package guest

import (
	"log/slog"
	"os"
	"path/filepath"
	"testing"
)

func TestRandomPorts(t *testing.T) {
	const usual = "32768\t60999\n"
	path := filepath.Join(t.TempDir(), "range")
	if err := os.WriteFile(path, []byte(usual), 0o600); err != nil {
		t.Fatal(err)
	}
	r := NewRandomPorts(slog.New(slog.NewTextHandler(t.Output(), nil)))
	r.path = path
	want := func(text string) {
		t.Helper()
		if got, err := os.ReadFile(path); err != nil || string(got) != text {
			t.Errorf("the range is %q (%v), want %q", got, err, text)
		}
	}
	r.Seen()
	want(usual)
	for range 2 { // as dockerd restarts
		r.Show()
		r.Show()
		want(randomPorts)
		r.Seen()
		r.Seen()
		want(usual)
	}
	r.Show()
	next := NewRandomPorts(r.log) // of an agent whose predecessor died
	next.path = path
	next.Show()
	next.Seen()
	want(kernelPorts)
}
