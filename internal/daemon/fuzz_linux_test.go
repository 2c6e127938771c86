package daemon

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/portolan-net/portolan/internal/profile"
)

func FuzzEngineOptions(f *testing.F) {
	f.Add([]byte(`{"debug": true, "dns": ["192.0.2.1"], "default-ulimits": {"nofile": {"Hard": 1}}}`))
	f.Add([]byte(`{"ip-masq": true}`))
	f.Add([]byte(`null`))
	f.Add([]byte(`[`))
	f.Fuzz(func(t *testing.T, text []byte) {
		p := profile.Profile{Name: "default", StateDir: t.TempDir()}
		if err := os.WriteFile(filepath.Join(p.StateDir, optionsFile), text, 0o600); err != nil {
			t.Fatal(err)
		}
		options, err := engineOptions(p)
		if _, masq := options["ip-masq"]; masq && err == nil {
			t.Errorf("options of Portolan's are let through: %v", options)
		}
	})
}
