package buildstep

import (
	"bytes"
	"encoding/json"
	"reflect"
	"slices"
	"strings"
	"testing"
)

const bundle = "/host/ca.crt"

func TestExtended(t *testing.T) {
	const step = `{"ociVersion":"1.3.0","process":{"args":["make"],"env":["PATH=/bin","SSL_CERT_FILE=/mine"],"user":{"uid":7}},
		"mounts":[{"destination":"/proc","type":"proc","source":"proc"},{"destination":"/dev","type":"tmpfs","source":"tmpfs","options":["mode=755"],"uidMappings":[{"size":1}]}],
		"linux":{"resources":{"memory":{"limit":18446744073709551615}}}}`
	got, err := extended([]byte(step), bundle)
	if err != nil {
		t.Fatal(err)
	}
	before, after := described(t, []byte(step)), described(t, got)
	mounts := after["mounts"].([]any)
	want := map[string]any{
		"destination": "/dev/portolan/ca-certificates.crt", "type": "bind", "source": bundle,
		"options": []any{"nosuid", "noexec", "nodev", "rbind", "ro"},
	}
	if len(mounts) != 3 || !reflect.DeepEqual(mounts[2], want) {
		t.Errorf("mounts: %v", mounts)
	}
	env := after["process"].(map[string]any)["env"].([]any)
	if !slices.Contains(env, any("CURL_CA_BUNDLE=/dev/portolan/ca-certificates.crt")) || !slices.Contains(env, any("SSL_CERT_FILE=/mine")) ||
		slices.Contains(env, any("SSL_CERT_FILE=/dev/portolan/ca-certificates.crt")) {
		t.Errorf("env: %v", env)
	}
	after["mounts"] = mounts[:2]
	after["process"].(map[string]any)["env"] = env[:2]
	if !reflect.DeepEqual(before, after) {
		t.Errorf("the rest is %v, want %v", after, before)
	}
}

// Where /dev is no tmpfs of the step's own, a file to mount on would stay.
func TestOnlyInATmpfs(t *testing.T) {
	for _, mounts := range []string{
		`[]`, `[{"destination":"/dev","type":"bind","source":"/dev"}]`,
		`[{"destination":"/dev","type":"tmpfs"},{"destination":"/dev/","type":"bind","source":"/layer"}]`,
	} {
		step := `{"process":{"env":["A=b"]},"mounts":` + mounts + `}`
		if got, err := extended([]byte(step), bundle); err != nil || string(got) != step {
			t.Errorf("%s: %s, %v", mounts, got, err)
		}
	}
}

func TestDamaged(t *testing.T) {
	for _, step := range []string{``, `{}`, `{"process":{"env":7}}`, `{"process":{},"mounts":{}}`, `{"process":{"env":[]},"mounts":[7]}`} {
		if got, err := extended([]byte(step), bundle); err == nil {
			t.Errorf("%s: %s", step, got)
		}
	}
}

func TestDirectory(t *testing.T) {
	for args, want := range map[string]string{
		"--log x --log-format json run --bundle /b/1 --keep 1": "/b/1",
		"create --bundle /b/2 2":                               "/b/2",
		"--log x delete 1":                                     "",
		"--version":                                            "",
		"run --bundle":                                         "",
		"run 1":                                                "",
	} {
		if got := directory(strings.Fields(args)); got != want {
			t.Errorf("runc %s: %q, want %q", args, got, want)
		}
	}
}

// Whatever a step's description is, only mounts and variables are added to it.
func FuzzExtended(f *testing.F) {
	for _, step := range []string{
		``, `null`, `{}`, `[]`, `{"process":null,"mounts":[{"destination":"/dev","type":"tmpfs"}]}`, `{"process":{"env":null},"mounts":null}`, `{"process":{"env":[1]}}`,
		`{"process":{"env":["A=b","SSL_CERT_FILE=/mine"]},"mounts":[{"destination":"/dev","type":"tmpfs"}],"linux":{"limit":18446744073709551615}}`,
		`{"process":{},"mounts":[{"destination":"/dev/.","type":"tmpfs"},null]}`, `{"mounts":[{"destination":"/dev","type":"tmpfs"}]}`,
	} {
		f.Add([]byte(step))
	}
	f.Fuzz(func(t *testing.T, step []byte) {
		got, err := extended(step, bundle)
		if err != nil || string(got) == string(step) {
			return
		}
		before, after := described(t, step), described(t, got)
		mounts := after["mounts"].([]any)
		after["mounts"] = mounts[:len(mounts)-1]
		process := after["process"].(map[string]any)
		env, _ := before["process"].(map[string]any)["env"].([]any) // none: null, or not there
		if process["env"] = process["env"].([]any)[:len(env)]; len(env) == 0 {
			delete(process, "env")
			delete(before["process"].(map[string]any), "env")
		}
		if !reflect.DeepEqual(before, after) {
			t.Errorf("%s becomes %s", step, got)
		}
	})
}

// described is a step's description as anybody would read it.
func described(t *testing.T, text []byte) (step map[string]any) {
	t.Helper()
	decoder := json.NewDecoder(bytes.NewReader(text))
	decoder.UseNumber()
	if err := decoder.Decode(&step); err != nil {
		t.Fatal(err)
	}
	return step
}
