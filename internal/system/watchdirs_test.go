package system

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func TestWatchDirs(t *testing.T) {
	top, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, dir := range []string{"etc", "run/resolve", "vol/v1", "vol/v2"} {
		must(os.MkdirAll(filepath.Join(top, dir), 0o755))
	}
	must(os.WriteFile(filepath.Join(top, "etc/plain"), nil, 0o644))
	must(os.WriteFile(filepath.Join(top, "run/resolve/stub"), nil, 0o644))
	must(os.WriteFile(filepath.Join(top, "vol/v1/file"), nil, 0o644))
	for link, target := range map[string]string{
		"etc/stub":    "../run/resolve/stub",
		"etc/abs":     filepath.Join(top, "run/resolve/stub"),
		"etc/dangles": "../run/gone/deeper/stub",
		"etc/loop":    "loop",
		"etc/volume":  "../vol/data/file",
		"vol/data":    "v1",
		"etc/through": "plain/more",
		"var":         "run",
		"etc/viavar":  "../var/resolve/stub",
	} {
		must(os.Symlink(target, filepath.Join(top, link)))
	}
	for _, c := range []struct{ path, want string }{
		{"etc/plain", "etc"},
		{"etc/missing", "etc"},
		{"etc/stub", "etc run/resolve"},
		{"etc/abs", "etc run/resolve"},
		{"etc/dangles", "etc run"},
		{"etc/loop", "etc"},
		{"etc/volume", "etc vol vol/v1"},
		{"etc/through", "etc"},
		{"etc/viavar", ". etc run/resolve"},
		{"etc/../etc/./plain", "etc"},
		{"nowhere/at/all", "."},
	} {
		var got []string
		for _, dir := range WatchDirs(top + "/" + c.path) {
			rel, err := filepath.Rel(top, dir)
			must(err)
			got = append(got, rel)
		}
		slices.Sort(got)
		if strings.Join(got, " ") != c.want {
			t.Errorf("WatchDirs(%s) = %q, want %q", c.path, got, c.want)
		}
	}
}
