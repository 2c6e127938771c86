package daemon

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
)

func TestTrimLog(t *testing.T) {
	dir := t.TempDir()
	name := filepath.Join(dir, "engine.log")
	writer, err := os.OpenFile(name, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer writer.Close()
	check := func(name, want string) {
		t.Helper()
		if text, err := os.ReadFile(name); err != nil || string(text) != want {
			t.Errorf("%s holds %q (%v), want %q", name, text, err, want)
		}
	}
	write := func(text string) {
		t.Helper()
		if _, err := writer.WriteString(text); err != nil {
			t.Fatal(err)
		}
	}
	trim := func() {
		t.Helper()
		if err := trimLog(name, 8); err != nil {
			t.Fatal(err)
		}
	}
	write("12345678")
	trim()
	check(name, "12345678")
	write("9")
	trim()
	check(name, "")
	check(name+".1", "23456789")
	write("abcdefghijk") // the writer knows nothing
	check(name, "abcdefghijk")
	trim()
	check(name+".1", "defghijk")

	// No room for the copy: the log is cut all the same.
	write("abcdefghijk")
	if err := errors.Join(os.Remove(name+".1"), os.MkdirAll(name+".1/full", 0o700)); err != nil {
		t.Fatal(err)
	}
	if trimLog(name, 8) == nil {
		t.Error("a copy that can't be made is no error")
	}
	check(name, "")

	// What a log leads to is not cut.
	victim := filepath.Join(dir, "victim")
	if err := os.WriteFile(victim, []byte("abcdefghijk"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(os.Remove(name), os.Symlink(victim, name)); err != nil {
		t.Fatal(err)
	}
	_ = trimLog(name, 8)
	check(victim, "abcdefghijk")
}
