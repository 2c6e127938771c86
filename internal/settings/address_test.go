package settings

import "testing"

// The names of containers are told on loopback alone, or nowhere.
func TestAddress(t *testing.T) {
	k, ok := Find(KeyHostNames)
	if !ok {
		t.Fatal("no such key")
	}
	for text, want := range map[string]Value{
		"": `""`, "127.0.0.1:53": `"127.0.0.1:53"`, "127.8.9.1:5399": `"127.8.9.1:5399"`, "[::1]:5399": `"[::1]:5399"`,
	} {
		if got, wrong := k.fromString(text); got != want || wrong != "" {
			t.Errorf("%q is %s (%s), want %s", text, got, wrong, want)
		}
	}
	for _, text := range []string{"127.0.0.1", "127.0.0.1:0", "0.0.0.0:53", "192.0.2.1:53", "[::]:53", "localhost:53", ":53", "x"} {
		if got, wrong := k.fromString(text); wrong == "" {
			t.Errorf("%q is %s, want it refused", text, got)
		}
	}
}
