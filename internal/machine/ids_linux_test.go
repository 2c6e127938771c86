package machine

import (
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"os/user"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func TestParseSubordinates(t *testing.T) {
	const text = "ann:100000:65536\n" +
		"# a comment\n\n" +
		"bob:165536\n" + // no count
		"bob:x:65536\n" +
		"bob:-1:65536\n" +
		"bob:4294967295:2\n" + // beyond the last id
		" 1001:200000:1 \n" +
		"eve:1:2:3"
	want := []idRange{{"ann", 100000, 65536}, {"1001", 200000, 1}}
	if got := parseSubordinates(text); !slices.Equal(got, want) {
		t.Errorf("parseSubordinates = %v, want %v", got, want)
	}
}

func FuzzParseSubordinates(f *testing.F) {
	f.Add("ann:100000:65536\nbob:4294967295:1\n")
	f.Add("::\n:0:0")
	f.Fuzz(func(t *testing.T, text string) {
		for _, r := range parseSubordinates(text) {
			if r.start < 0 || r.count < 0 || r.start+r.count > 1<<32 {
				t.Errorf("%q has the range %v", text, r)
			}
			if strings.Contains(r.owner, ":") {
				t.Errorf("%q has the owner %q", text, r.owner)
			}
		}
	})
}

func TestFindSubordinate(t *testing.T) {
	ann := &user.User{Username: "ann", Uid: "1001"}
	for _, c := range []struct {
		name, text string
		want       idRange
		remedy     string // the range that usermod is to add
	}{
		{"by name", "bob:100000:65536\nann:165536:65536\n", idRange{"ann", 165536, 65536}, ""},
		{"by id", "1001:300000:65535\n", idRange{"1001", 300000, 65535}, ""},
		{"the first that is large enough", "ann:100000:10\nann:200000:70000\nann:300000:65536\n", idRange{"ann", 200000, 70000}, ""},
		{"none", "", idRange{}, "100000-165535"},
		{"somebody else's", "bob:100000:65536\n", idRange{}, "165536-231071"},
		{"too small", "ann:500000:1000\nbob:100000:65536\n", idRange{}, "501000-566535"},
	} {
		t.Run(c.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "subgid")
			if err := os.WriteFile(path, []byte(c.text), 0o600); err != nil {
				t.Fatal(err)
			}
			got, err := findSubordinate(path, ann)
			if got != c.want || (err == nil) != (c.remedy == "") {
				t.Errorf("findSubordinate = %v, %v, want %v", got, err, c.want)
			}
			if c.remedy != "" && !strings.Contains(err.Error(), "as root, type: usermod --add-subgids "+c.remedy+" ann") {
				t.Errorf("the error %q does not name the free range %s", err, c.remedy)
			}
		})
	}
	if _, err := findSubordinate(filepath.Join(t.TempDir(), "subuid"), ann); err == nil || !strings.Contains(err.Error(), "usermod --add-subuids 100000-165535 ann") {
		t.Errorf("without a file: %v", err)
	}
}

// Each distribution's switch is named with what to type. Only the second can
// be thrown in a test of the whole: the others are not in every kernel, and
// hold for the whole computer.
func TestNamespaceHint(t *testing.T) {
	for _, c := range []struct{ file, open, shut, remedy string }{
		{"kernel/unprivileged_userns_clone", "1", "0", "sysctl -w kernel.unprivileged_userns_clone=1"},
		{"user/max_user_namespaces", "15000", "0", "sysctl -w user.max_user_namespaces=15000"},
		{"kernel/apparmor_restrict_unprivileged_userns", "0", "1", "sysctl -w kernel.apparmor_restrict_unprivileged_userns=0"},
	} {
		dir := t.TempDir()
		path := filepath.Join(dir, c.file)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		for value, remedy := range map[string]string{c.open: "", c.shut: c.remedy} {
			if err := os.WriteFile(path, []byte(value+"\n"), 0o600); err != nil {
				t.Fatal(err)
			}
			got := namespaceHint(dir)
			if (got == "") != (remedy == "") || !strings.Contains(got, remedy) {
				t.Errorf("%s = %s: the hint is %q, want %q in it", c.file, value, got, remedy)
			}
		}
	}
	if got := namespaceHint(t.TempDir()); got != "" {
		t.Errorf("where no switch is: %q", got)
	}
}

func TestPowerlessProgram(t *testing.T) {
	program := filepath.Join(t.TempDir(), "newuidmap")
	if err := os.WriteFile(program, []byte("#!/bin/sh\necho \"$@\" >&2\nexit 1\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	err := idMapping{program, []string{"0", "1000", "1"}}.apply(7)
	if err == nil || !strings.Contains(err.Error(), "7 0 1000 1") || !strings.Contains(err.Error(), "type: chmod u+s "+program) {
		t.Errorf("apply = %v", err)
	}
}

func TestHelperByHand(t *testing.T) {
	for _, args := range [][]string{nil, {removeWord, "a", "b"}, {"a", "b"}} {
		if err := Helper(t.Context(), args, slog.New(slog.DiscardHandler)); err == nil || !strings.Contains(err.Error(), "portolan up") {
			t.Errorf("Helper(%q) = %v", args, err)
		}
	}
}

func TestRemoveTree(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "state")
	if err := os.MkdirAll(filepath.Join(dir, "a/b"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := RemoveTree(t.Context(), dir); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(dir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("it is left: %v", err)
	}
}
