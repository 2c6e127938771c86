package engine

import (
	"strings"
	"testing"
)

func FuzzParseVersion(f *testing.F) {
	f.Add([]byte("Docker version 29.0.1, build 1234567\n"))
	f.Add([]byte("Docker version v2.0.0-beta.24, build dev"))
	f.Add([]byte("version 99999999999999999999.1"))
	f.Fuzz(func(t *testing.T, out []byte) {
		version, ok := parseVersion(out)
		if ok != (version != "") || strings.ContainsAny(version, " ,\n\t") {
			t.Errorf("parseVersion(%q) = %q, %v", out, version, ok)
		}
		if major := majorOf(version); major < 0 {
			t.Errorf("majorOf(%q) = %d", version, major)
		}
	})
}
