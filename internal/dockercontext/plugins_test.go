package dockercontext

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
)

func TestPluginsAreLinkedAndUnlinked(t *testing.T) {
	source := t.TempDir()
	for _, name := range []string{"docker-portolan-test", "docker-portolan-taken", "docker-portolan-moved", "README"} {
		if err := os.WriteFile(filepath.Join(source, name), nil, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	d := Dir(filepath.Join(t.TempDir(), "docker"))
	theirs := filepath.Join(string(d), "cli-plugins", "docker-portolan-taken")
	moved := filepath.Join(string(d), "cli-plugins", "docker-portolan-moved")
	if err := errors.Join(
		os.MkdirAll(filepath.Dir(theirs), 0o755),
		os.WriteFile(theirs, []byte("theirs"), 0o755),
		os.Symlink("/gone/docker-portolan-moved", moved), // of an earlier installation
		d.LinkPlugins(source), d.LinkPlugins(source),
		d.LinkPlugins(filepath.Join(source, "none")),
	); err != nil {
		t.Fatal(err)
	}
	ours := filepath.Join(string(d), "cli-plugins", "docker-portolan-test")
	for link, want := range map[string]string{ours: filepath.Join(source, "docker-portolan-test"), moved: filepath.Join(source, "docker-portolan-moved")} {
		if got, err := os.Readlink(link); err != nil || got != want {
			t.Errorf("%s leads to %q, %v, want %s", link, got, err, want)
		}
	}
	if text, err := os.ReadFile(theirs); err != nil || string(text) != "theirs" {
		t.Errorf("the user's own plugin: %q, %v", text, err)
	}
	if _, err := os.Lstat(filepath.Join(string(d), "cli-plugins", "README")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("what is no plugin is linked: %v", err)
	}

	// Another profile's context keeps them.
	if err := errors.Join(d.Write(Context{Name: "portolan-two", Host: "unix:///two"}), d.UnlinkPlugins(source)); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Lstat(ours); err != nil {
		t.Errorf("unlinked while a context needs it: %v", err)
	}
	if _, err := d.Remove("portolan-two", "unix:///two"); err != nil {
		t.Fatal(err)
	}
	if err := d.UnlinkPlugins(source); err != nil {
		t.Fatal(err)
	}
	left, err := os.ReadDir(filepath.Dir(ours))
	if err != nil || len(left) != 1 || left[0].Name() != filepath.Base(theirs) {
		t.Errorf("left after unlinking: %v, %v, want the user's own only", left, err)
	}
}

func TestPluginDirGoesWhenItIsEmpty(t *testing.T) {
	source := t.TempDir()
	if err := os.WriteFile(filepath.Join(source, "docker-portolan-test"), nil, 0o755); err != nil {
		t.Fatal(err)
	}
	d := Dir(t.TempDir())
	if err := errors.Join(d.UnlinkPlugins(source), d.LinkPlugins(source), d.UnlinkPlugins(source)); err != nil {
		t.Fatal(err)
	}
	if left, err := os.ReadDir(string(d)); err != nil || len(left) != 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}
