package spec

import (
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/portolan-net/portolan/internal/profile"
)

// Who has opened a file goes on to read what it was: it is replaced, not
// written over, and nothing else is left in its directory.
func TestWriteFileReplaces(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "file")
	if err := WriteFile(path, []byte("old")); err != nil {
		t.Fatal(err)
	}
	opened, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer opened.Close()
	if err := WriteFile(path, []byte("new and longer")); err != nil {
		t.Fatal(err)
	}
	if text, err := io.ReadAll(opened); err != nil || string(text) != "old" {
		t.Errorf("who had opened the file reads %q, %v", text, err)
	}
	if text, err := os.ReadFile(path); err != nil || string(text) != "new and longer" {
		t.Errorf("the file holds %q, %v", text, err)
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the file's mode is %v, %v", info.Mode(), err)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 1 {
		t.Errorf("the directory holds %v, %v", left, err)
	}
}

// A write that fails, here for want of the file's place, leaves what was there.
func TestWriteFileFails(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	if err := WriteFile(path, []byte("old")); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(path+".new", 0o700); err != nil {
		t.Fatal(err)
	}
	if err := WriteFile(path, []byte("new")); err == nil {
		t.Error("WriteFile succeeds without a place for the new file")
	}
	if text, err := os.ReadFile(path); err != nil || string(text) != "old" {
		t.Errorf("the file holds %q, %v", text, err)
	}
}

func TestDamagedMachine(t *testing.T) {
	dir := t.TempDir()
	cfg := Machine{Profile: profile.Profile{Name: "x", RunDir: dir}, Version: "v1"}
	if err := os.Mkdir(cfg.Profile.SharedDir(), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := Write(cfg); err != nil {
		t.Fatal(err)
	}
	if got, err := Load(cfg.Profile.SharedDir()); err != nil || got.Version != "v1" {
		t.Errorf("Load = %+v, %v", got, err)
	}
	path := filepath.Join(cfg.Profile.SharedDir(), fileName)
	if err := os.WriteFile(path, []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := Load(cfg.Profile.SharedDir())
	if err == nil || !strings.Contains(err.Error(), path+" is damaged") || !strings.Contains(err.Error(), "portolan down && portolan up") {
		t.Errorf("Load of a damaged file = %v", err)
	}
}
