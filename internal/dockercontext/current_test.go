package dockercontext

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestEditKeepsEveryOtherByte(t *testing.T) {
	for _, c := range []struct{ name, before, set, after string }{
		{"add to the CLI's own form", "{\n\t\"auths\": {},\n\t\"x\": 1\n}", "portolan", "{\n\t\"currentContext\": \"portolan\",\n\t\"auths\": {},\n\t\"x\": 1\n}"},
		{"add to one line", `{"auths":{}}`, "portolan", `{"currentContext": "portolan","auths":{}}`},
		{"add to nothing", "", "portolan", "{\n\t\"currentContext\": \"portolan\"\n}\n"},
		{"add to an empty object", "{ }", "portolan", "{\n\t\"currentContext\": \"portolan\"\n}\n"},
		{"replace", `{"a":1e2, "currentContext" : "x" ,"b":"\u00e9"}`, "portolan", `{"a":1e2, "currentContext": "portolan" ,"b":"\u00e9"}`},
		{"only the top level", `{"a":{"currentContext":"x"}}`, "portolan", `{"currentContext": "portolan","a":{"currentContext":"x"}}`},
		{"reset first", "{\n  \"currentContext\": \"x\",\n  \"a\": 1\n}\n", "", "{\n  \"a\": 1\n}\n"},
		{"reset last", "{\n  \"a\": 1,\n  \"currentContext\": \"x\"\n}\n", "", "{\n  \"a\": 1\n}\n"},
		{"reset alone", `{"currentContext":"x"}`, "", `{}`},
		{"reset two", `{"currentContext":"x","a":1,"currentContext":"y"}`, "", `{"a":1}`},
		{"reset nothing", `{ "a" : 1 }`, "", `{ "a" : 1 }`},
	} {
		t.Run(c.name, func(t *testing.T) {
			d := Dir(t.TempDir())
			put(t, d.configFile(), c.before)
			if err := d.SetCurrent(c.set); err != nil {
				t.Fatal(err)
			}
			if got := get(t, d.configFile()); got != c.after {
				t.Errorf("config.json = %q, want %q", got, c.after)
			}
			if current, err := d.Current(); current != c.set || err != nil {
				t.Errorf("Current = %q, %v", current, err)
			}
			if n := entries(t, string(d)); n != 1 {
				t.Errorf("%d files, want config.json alone", n)
			}
		})
	}
}

func TestCorruptConfigStays(t *testing.T) {
	for _, text := range []string{"{", "[]", `{"a":1} x`, `{"a" 1}`, "\x00", `{"a":1,}`} {
		d := Dir(t.TempDir())
		put(t, d.configFile(), text)
		err := d.SetCurrent("portolan")
		if err == nil || !strings.Contains(err.Error(), "mend the file") {
			t.Errorf("SetCurrent on %q = %v", text, err)
		}
		if got := get(t, d.configFile()); got != text {
			t.Errorf("config.json was %q, is %q", text, got)
		}
	}
}

func TestCurrentOfAnotherType(t *testing.T) {
	d := Dir(t.TempDir())
	put(t, d.configFile(), `{"currentContext": 7}`)
	if current, err := d.Current(); err == nil {
		t.Errorf("Current = %q, want an error", current)
	}
}

func TestSetCurrentKeepsModeAndLink(t *testing.T) {
	d, real := Dir(t.TempDir()), filepath.Join(t.TempDir(), "dotfile")
	put(t, real, `{"a":1}`)
	if err := os.Chmod(real, 0o640); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(real, d.configFile()); err != nil {
		t.Fatal(err)
	}
	if err := d.SetCurrent("portolan"); err != nil {
		t.Fatal(err)
	}
	info, err := os.Lstat(d.configFile())
	if err != nil || info.Mode()&os.ModeSymlink == 0 {
		t.Errorf("config.json is no link any more: %v, %v", info, err)
	}
	if info, err := os.Stat(real); err != nil || info.Mode().Perm() != 0o640 {
		t.Errorf("mode = %v, %v, want 0640", info.Mode(), err)
	}
}

func FuzzEdit(f *testing.F) {
	f.Add(`{"a":1,"currentContext":"x","b":[{}]}`, "portolan")
	f.Add(`{"currentcontext":"x"}`, "")
	f.Add(` {"a":"}\"," } `, "p")
	f.Fuzz(func(t *testing.T, text, name string) {
		members, err := parse([]byte(text))
		if err != nil {
			return
		}
		var before, after map[string]json.RawMessage
		if json.Unmarshal([]byte(text), &before) != nil {
			return
		}
		changed := edit([]byte(text), members, name)
		if err := json.Unmarshal(changed, &after); err != nil {
			t.Fatalf("%q became %q: %v", text, changed, err)
		}
		for key, value := range before {
			if !strings.EqualFold(key, currentKey) && string(after[key]) != string(value) {
				t.Errorf("%q became %q: key %q changed", text, changed, key)
			}
		}
	})
}
