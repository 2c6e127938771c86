package testimage

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"testing"
)

func TestWrite(t *testing.T) {
	var buf bytes.Buffer
	if err := Write(t.Context(), &buf); err != nil {
		t.Fatal(err)
	}
	var names []string
	for name, data := range members(t, buf.Bytes()) {
		if filepath.Ext(name) == ".tar" {
			names = slices.Collect(maps.Keys(members(t, data)))
		}
	}
	want := []string{"bin/toolbox", "etc/passwd", "tmp/"}
	if static, err := isStatic("/bin/busybox"); err == nil && static {
		want = append(want, "bin/busybox", "bin/sh")
	}
	for _, name := range want {
		if !slices.Contains(names, name) {
			t.Errorf("no %s in the layer", name)
		}
	}
}

// members returns what the files of a tar hold.
func members(t *testing.T, archive []byte) map[string][]byte {
	t.Helper()
	found := map[string][]byte{}
	in := tar.NewReader(bytes.NewReader(archive))
	for {
		head, err := in.Next()
		if errors.Is(err, io.EOF) {
			return found
		}
		if err != nil {
			t.Fatal(err)
		}
		if found[head.Name], err = io.ReadAll(in); err != nil {
			t.Fatal(err)
		}
	}
}

func TestIsStatic(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := isStatic(self); err != nil {
		t.Error(err)
	}
	if static, err := isStatic("/bin/cat"); err == nil && static {
		t.Error("/bin/cat is said to be static")
	}
	if _, err := isStatic("/etc/passwd"); err == nil {
		t.Error("/etc/passwd is said to be a program")
	}
}

func TestParse(t *testing.T) {
	r, err := Parse([]byte("{\"command\":\"web\",\"outcome\":\"listening\"}\n{\"command\":\"web\",\"outcome\":\"ok\",\"elapsed_ms\":7}\n"))
	if err != nil || r.Outcome != OK || r.Duration().Milliseconds() != 7 {
		t.Errorf("%+v, %v", r, err)
	}
	if _, err := Parse([]byte("docker: no such image")); err == nil {
		t.Error("no error for what is no JSON")
	}
}

func TestStreamIsTheSame(t *testing.T) {
	first, second := make([]byte, 1000), make([]byte, 1000)
	_, _ = io.ReadFull(Stream(), first)
	_, _ = io.ReadFull(Stream(), second)
	if !bytes.Equal(first, second) || bytes.Equal(first[:500], first[500:]) {
		t.Error("the stream differs, or repeats itself")
	}
}
