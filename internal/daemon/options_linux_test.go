package daemon

import (
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/portolan-net/portolan/internal/profile"
)

func TestEngineOptions(t *testing.T) {
	for _, c := range []struct {
		name, text string
		want       map[string]any
		errs       []string // what the message must name, beside the file
	}{
		{"options", `{"firewall-backend": "nftables", "debug": true}`, map[string]any{"firewall-backend": "nftables", "debug": true}, nil},
		{"nothing in it", `{}`, map[string]any{}, nil},
		{"a key of Portolan's", `{"debug": true, "ip-masq": true}`, nil, []string{`"ip-masq"`, "Portolan sets it itself"}},
		{"a key that is Portolan's on some hosts", `{"init-path": "/bin/true"}`, nil, []string{`"init-path"`}},
		{"not JSON", `{"debug": tru`, nil, []string{"want a JSON object"}},
		{"not an object", `["debug"]`, nil, []string{"want a JSON object"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := profile.Profile{Name: "default", StateDir: t.TempDir()}
			path := filepath.Join(p.StateDir, "engine.json")
			if err := os.WriteFile(path, []byte(c.text), 0o600); err != nil {
				t.Fatal(err)
			}
			got, err := engineOptions(p)
			if !reflect.DeepEqual(got, c.want) {
				t.Errorf("options are %v, want %v", got, c.want)
			}
			if (err != nil) != (c.errs != nil) {
				t.Fatalf("error: %v", err)
			}
			for _, part := range c.errs {
				if !strings.Contains(err.Error(), part) || !strings.Contains(err.Error(), path) {
					t.Errorf("error %q does not name %s and %s", err, path, part)
				}
			}
		})
	}
	if got, err := engineOptions(profile.Profile{StateDir: t.TempDir()}); got != nil || err != nil {
		t.Errorf("without a file: %v, %v", got, err)
	}
}
