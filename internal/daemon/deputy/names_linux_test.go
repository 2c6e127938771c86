package deputy

import (
	"bytes"
	"io"
	"os"
	"testing"

	"github.com/portolan-net/portolan/internal/system"
)

// The host's name files are opened, and nothing else is.
func TestOpenNames(t *testing.T) {
	deputy, _ := served(t, duties{})
	for _, path := range []string{system.ResolverFile, system.HostsFile} {
		want, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		file, err := deputy.OpenNames(t.Context(), path)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := io.ReadAll(file); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s is %q, %v; want %q", path, got, err, want)
		}
		_ = file.Close()
	}
	for _, path := range []string{"/etc/shadow", "/etc/../etc/hosts", "/etc", "hosts"} {
		if file, err := deputy.OpenNames(t.Context(), path); err == nil {
			_ = file.Close()
			t.Errorf("%s was opened", path)
		}
	}
}
