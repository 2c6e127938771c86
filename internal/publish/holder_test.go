//go:build linux

package publish

import (
	"net/netip"
	"testing"
)

func TestParseAddrPort(t *testing.T) {
	for text, want := range map[string]string{
		"0100007F:0050":                         "127.0.0.1:80",
		"00000000:FFFF":                         "0.0.0.0:65535",
		"00000000000000000000000001000000:1F90": "[::1]:8080",
		"0000000000000000FFFF00000100007F:0016": "[::ffff:127.0.0.1]:22",
	} {
		got, err := parseAddrPort(text)
		if err != nil || got != netip.MustParseAddrPort(want) {
			t.Errorf("parseAddrPort(%q) = %v, %v; want %s", text, got, err, want)
		}
	}
}

func FuzzParseAddrPort(f *testing.F) {
	for _, text := range []string{"0100007F:0050", "", ":", "xx:yy", "0100007F0100007F:0050", "0100007F:10000"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		if got, err := parseAddrPort(text); (err == nil) != got.IsValid() {
			t.Errorf("parseAddrPort(%q) = %v, %v", text, got, err)
		}
	})
}
