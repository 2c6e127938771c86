package profile

import (
	"path/filepath"
	"strings"
	"testing"
)

// Settings are where XDG says, for root as for everybody else.
func TestSettingsFile(t *testing.T) {
	dir := t.TempDir()
	for _, c := range []struct{ name, override, xdg, home, want string }{
		{"home", "", "", dir, dir + "/.config/portolan/lab/settings.json"},
		{"XDG", "", dir + "/c", dir, dir + "/c/portolan/lab/settings.json"},
		{"override", dir + "/o", dir + "/c", dir, dir + "/o/lab/settings.json"},
		{"not absolute", "", "c", dir, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Setenv("PORTOLAN_STATE_DIR", filepath.Join(dir, "state"))
			t.Setenv("PORTOLAN_RUNTIME_DIR", "/tmp/r")
			t.Setenv("PORTOLAN_CONFIG_DIR", c.override)
			t.Setenv("XDG_CONFIG_HOME", c.xdg)
			t.Setenv("HOME", c.home)
			p, err := Open("lab")
			if c.want == "" {
				if err == nil || !strings.Contains(err.Error(), "XDG_CONFIG_HOME") {
					t.Errorf("error %v", err)
				}
				return
			}
			if err != nil || p.SettingsFile() != c.want {
				t.Errorf("%s, %v; want %s", p.SettingsFile(), err, c.want)
			}
		})
	}
}
