package settings

import (
	"encoding/json"
	"testing"
)

// What a parser takes is valid JSON, resolves to values that are in the schema,
// and is read the same when it is written again.
func FuzzParseUser(f *testing.F) {
	for _, seed := range []string{
		``, `{}`, `[]`, `{"defaultNetworkingMode":"ipv4only"}`, `{"linuxVM":{"vpnkitCIDR":"10.0.0.0/24","dockerDaemonOptions":"{\"debug\":true}"}}`,
		`{"proxy":{"mode":"manual","exclude":["a"]},"x":1e999}`, `{"a":1,"a":2}`, "{\"\\ud800\":0}",
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		l, err := parseUser("f", text, noHosts)
		if err != nil {
			return
		}
		if !json.Valid(text) {
			t.Fatal("taken, but not JSON")
		}
		checkFuzzed(t, resolve(l, layer{}))
		tree, _ := node{value: mustTree(t, string(text))}.plain().(map[string]any)
		again, err := render(tree)
		if err != nil {
			t.Fatal(err)
		}
		second, err := parseUser("f", again, noHosts)
		if err != nil {
			t.Fatalf("written again it is refused: %v", err)
		}
		for name, e := range l.entries {
			if second.entries[name].value != e.value {
				t.Errorf("%s was %s, and is %s when written again", name, e.value, second.entries[name].value)
			}
		}
	})
}

func FuzzParseAdmin(f *testing.F) {
	for _, seed := range []string{
		``, `{"configurationFileVersion":2}`, lock("dnsInhibition", `"none"`), lock("defaultNetworkingMode", `"ipv6only"`),
		`{"configurationFileVersion":2,"proxy":{"locked":true,"mode":"manual"},"kubernetes":{"locked":true}}`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		l, err := parseAdmin("f", text, noHosts)
		if err == nil {
			checkFuzzed(t, resolve(layer{}, l))
		}
	})
}

func lock(key, value string) string {
	return `{"configurationFileVersion":2,"` + key + `":{"locked":true,"value":` + value + `}}`
}

func checkFuzzed(t *testing.T, s *Snapshot) {
	t.Helper()
	for _, setting := range s.Settings {
		if got, wrong := setting.value(mustTree(t, `{"v":`+string(setting.Value)+`}`)[0].node); wrong != "" || got != setting.Value {
			t.Errorf("%s: %s is in force: %s", setting.Name, setting.Value, wrong)
		}
	}
	if err := s.Values.Link.Validate(); err != nil {
		t.Error(err)
	}
}
