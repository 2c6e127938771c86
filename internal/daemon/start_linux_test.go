package daemon

import (
	"testing"

	"github.com/portolan-net/portolan/internal/system"
)

func TestParseHostPort(t *testing.T) {
	for text, want := range map[string]system.PortRange{
		"80": {First: 80, Last: 80}, "8000-8010": {First: 8000, Last: 8010}, "65535": {First: 65535, Last: 65535},
		"": {}, "0": {}, "8010-8000": {}, "8000-": {}, "-8000": {}, "65536": {}, "x": {},
	} {
		got, ok := parseHostPort(text)
		if ok != (want != system.PortRange{}) || ok && got != want {
			t.Errorf("parseHostPort(%q) = %v, %v; want %v", text, got, ok, want)
		}
	}
}

// Whatever the engine says of ports: ranges that there can be.
func FuzzParseHostPort(f *testing.F) {
	for _, text := range []string{"80", "8000-8010", "8010-8000", "0-", "-1", "65535-65536", ""} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		if r, ok := parseHostPort(text); ok && (r.First == 0 || r.First > r.Last) {
			t.Errorf("parseHostPort(%q) = %v", text, r)
		}
	})
}
