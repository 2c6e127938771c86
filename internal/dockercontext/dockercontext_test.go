package dockercontext

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"testing"
)

const host = "unix:///run/portolan/default/docker.sock"

// written is a context as the docker CLI 28.2 wrote it for
// `docker context create t1 --description hello --docker host=unix:///tmp/x.sock`.
const written = `{"Name":"t1","Metadata":{"Description":"hello"},"Endpoints":{"docker":{"Host":"unix:///tmp/x.sock","SkipTLSVerify":false}}}`

func testContext() Context {
	return Context{Name: "portolan", Description: "Portolan", Host: host}
}

func put(t *testing.T, path, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func get(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// entries lists a directory, so that a left temporary file is seen.
func entries(t *testing.T, dir string) int {
	t.Helper()
	list, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	return len(list)
}

func TestWriteHasTheFormOfTheDockerCLI(t *testing.T) {
	d := Dir(t.TempDir())
	for range 2 { // the second one renews it
		if err := d.Write(testContext()); err != nil {
			t.Fatal(err)
		}
	}
	// printf portolan | sha256sum
	folder := filepath.Join(string(d), "contexts/meta/61aef21156ffca6a6927ced21ac6a805a0a30c14398012f15e68a25ae0c020e9")
	var ours, theirs map[string]any
	if err := json.Unmarshal([]byte(get(t, filepath.Join(folder, "meta.json"))), &ours); err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal([]byte(written), &theirs); err != nil {
		t.Fatal(err)
	}
	for key := range theirs {
		if _, ok := ours[key]; !ok {
			t.Errorf("key %s is missing in %v", key, ours)
		}
	}
	if endpoint := ours["Endpoints"].(map[string]any)["docker"].(map[string]any); endpoint["Host"] != host || endpoint["SkipTLSVerify"] != false {
		t.Errorf("endpoint = %v", endpoint)
	}
	if n := entries(t, folder); n != 1 {
		t.Errorf("%d files in the context's folder, want meta.json alone", n)
	}
}

func TestForeignContextStays(t *testing.T) {
	for name, text := range map[string]string{"made by docker": written, "damaged": "{", "empty": ""} {
		t.Run(name, func(t *testing.T) {
			d := Dir(t.TempDir())
			put(t, d.metaFile("portolan"), text)
			if err := d.Write(testContext()); !errors.Is(err, ErrForeign) {
				t.Errorf("Write = %v, want ErrForeign", err)
			}
			if removed, err := d.Remove("portolan", host); removed || err != nil {
				t.Errorf("Remove = %v, %v, want it left alone", removed, err)
			}
			if got := get(t, d.metaFile("portolan")); got != text {
				t.Errorf("the context is now %q", got)
			}
		})
	}
}

func TestRemove(t *testing.T) {
	d := Dir(t.TempDir())
	if removed, err := d.Remove("portolan", host); removed || err != nil {
		t.Fatalf("Remove of nothing = %v, %v", removed, err)
	}
	if err := errors.Join(d.Write(testContext()), d.SetCurrent("portolan")); err != nil {
		t.Fatal(err)
	}
	if removed, err := d.Remove("portolan", "unix:///another.sock"); removed || err != nil {
		t.Errorf("Remove for another machine's socket = %v, %v, want it left alone", removed, err)
	}
	if removed, err := d.Remove("portolan", host); !removed || err != nil {
		t.Fatalf("Remove = %v, %v", removed, err)
	}
	if current, err := d.Current(); current != "" || err != nil {
		t.Errorf("Current = %q, %v, want the default", current, err)
	}
	if n := entries(t, filepath.Join(string(d), "contexts/meta")); n != 0 {
		t.Errorf("%d contexts left", n)
	}
}

func TestRemoveKeepsAnotherCurrentContext(t *testing.T) {
	d := Dir(t.TempDir())
	if err := errors.Join(d.Write(testContext()), d.SetCurrent("other")); err != nil {
		t.Fatal(err)
	}
	if removed, err := d.Remove("portolan", host); !removed || err != nil {
		t.Fatalf("Remove = %v, %v", removed, err)
	}
	if current, _ := d.Current(); current != "other" {
		t.Errorf("Current = %q, want other", current)
	}
}

// With a config.json that nobody can read, the context has to stay: whether it
// is the current one is not known.
func TestRemoveWithCorruptConfig(t *testing.T) {
	d := Dir(t.TempDir())
	if err := d.Write(testContext()); err != nil {
		t.Fatal(err)
	}
	put(t, d.configFile(), `{"auths": {`)
	if removed, err := d.Remove("portolan", host); removed || err == nil {
		t.Errorf("Remove = %v, %v, want an error", removed, err)
	}
	if err := d.Check("portolan"); err != nil || get(t, d.configFile()) != `{"auths": {` {
		t.Errorf("Check = %v, config = %q", err, get(t, d.configFile()))
	}
}

func TestDefaultDir(t *testing.T) {
	t.Setenv("HOME", "/home/ann")
	t.Setenv("DOCKER_CONFIG", "")
	if d, err := DefaultDir(); d != "/home/ann/.docker" || err != nil {
		t.Errorf("DefaultDir = %s, %v", d, err)
	}
	t.Setenv("DOCKER_CONFIG", "/etc/dc")
	if d, err := DefaultDir(); d != "/etc/dc" || err != nil {
		t.Errorf("DefaultDir = %s, %v", d, err)
	}
}
