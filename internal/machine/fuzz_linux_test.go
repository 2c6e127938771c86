package machine

import (
	"os"
	"testing"

	"github.com/portolan-net/portolan/internal/profile"
)

func FuzzLoadRecord(f *testing.F) {
	f.Add([]byte(`{"version": "v", "helper": {"pid": 1, "startTicks": 7, "since": "2026-01-02T03:04:05Z"}, "init": {"pid": -1}}`))
	f.Add([]byte(`{"helper": {"pid": "1"}}`))
	f.Add([]byte(`{}`))
	f.Add([]byte(`{"init": {"pid": 9223372036854775807, "startTicks": 18446744073709551615}}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		p := profile.Profile{Name: "default", RunDir: t.TempDir()}
		if err := os.WriteFile(recordPath(p), text, 0o600); err != nil {
			t.Fatal(err)
		}
		r, err := LoadRecord(p)
		if err != nil {
			return
		}
		for _, process := range []Process{r.Helper, r.Init} {
			if process.PID <= 0 {
				t.Errorf("process %d is taken for one", process.PID)
			}
		}
	})
}
