package spec

import (
	"os"
	"path/filepath"
	"testing"
)

func FuzzLoad(f *testing.F) {
	f.Add([]byte(`{"profile": {"Name": "default"}, "link": {"V4": "192.168.65.0/24"}, "hostRoutes": ["10.0.0.0/8"]}`))
	f.Add([]byte(`{"engineOptions": {"debug": [1, null]}, "rootless": true}`))
	f.Add([]byte(`{"link": {"V4": 7}}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, fileName), text, 0o600); err != nil {
			t.Fatal(err)
		}
		cfg, err := Load(dir)
		if err != nil {
			return
		}
		cfg.Profile.RunDir = t.TempDir()
		if err := os.Mkdir(cfg.Profile.SharedDir(), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := Write(cfg); err != nil {
			t.Errorf("what was read can not be written: %v", err)
		}
		for _, dir := range []string{cfg.Profile.RunDir, cfg.Profile.SharedDir()} {
			if _, err := Load(dir); err != nil {
				t.Errorf("what was read and written can not be read: %v", err)
			}
		}
		if err := Remove(cfg.Profile); err != nil {
			t.Error(err)
		}
		if _, err := Load(cfg.Profile.RunDir); err == nil {
			t.Error("what was removed is still there")
		}
	})
}
