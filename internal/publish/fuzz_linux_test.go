package publish

import "testing"

func FuzzParseSocket(f *testing.F) {
	f.Add("   0: 00000000:0050 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 12345 1 0000000000000000 100 0 0 10 0")
	f.Add("   1: 00000000000000000000000001000000:1F90 0:0 07 0 0 0 0 0 99")
	f.Add("  sl  local_address rem_address   st tx_queue")
	f.Fuzz(func(t *testing.T, line string) {
		if s, ok := parseSocket(line); ok && (!s.local.IsValid() || s.inode == "0") {
			t.Errorf("parseSocket(%q) = %+v", line, s)
		}
	})
}
