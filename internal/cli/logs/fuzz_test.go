package logs

import "testing"

func FuzzStamp(f *testing.F) {
	for _, text := range []string{`time="2026-01-02T03:04:05.6Z" level=info`, "time=2026-01-02T03:04:05+01:00 x", "time=", `time="`} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		if at, ok := stamp(text); !ok && !at.IsZero() {
			t.Errorf("stamp(%q) = %v, %v", text, at, ok)
		}
	})
}
