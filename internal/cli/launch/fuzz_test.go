package launch

import (
	"bytes"
	"testing"
)

func FuzzReadPID(f *testing.F) {
	for _, text := range []string{"", "1\n", "-7", "99999999999999999999999", "12 34", "0x10"} {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		if pid := readPID(bytes.NewReader(text)); pid < 0 {
			t.Errorf("readPID(%q) = %d", text, pid)
		}
	})
}
