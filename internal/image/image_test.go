package image

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// sample is an image of one program and two links.
func sample(t *testing.T) Image {
	t.Helper()
	program := filepath.Join(t.TempDir(), "program")
	if err := os.WriteFile(program, []byte("I am static"), 0o755); err != nil {
		t.Fatal(err)
	}
	return Image{
		Name:       "portolan/sample:1",
		Files:      map[string]string{"/usr/bin/program": program},
		Links:      map[string]string{"/bin/sh": "/usr/bin/program", "/bin/ls": "/usr/bin/program"},
		Entrypoint: []string{"/usr/bin/program"},
		Cmd:        []string{"-v"},
		Env:        []string{"A=b"},
		Ports:      []string{"80/tcp", "53/udp"},
	}
}

// write writes img and returns the archive's files by name.
func write(t *testing.T, img Image) map[string][]byte {
	t.Helper()
	var buf bytes.Buffer
	if err := Write(&buf, img); err != nil {
		t.Fatal(err)
	}
	files := map[string][]byte{}
	for head, data := range entries(t, buf.Bytes()) {
		files[head.Name] = data
	}
	return files
}

// entries yields the members of a tar.
func entries(t *testing.T, archive []byte) func(yield func(*tar.Header, []byte) bool) {
	t.Helper()
	return func(yield func(*tar.Header, []byte) bool) {
		in := tar.NewReader(bytes.NewReader(archive))
		for {
			head, err := in.Next()
			if errors.Is(err, io.EOF) {
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			data, err := io.ReadAll(in)
			if err != nil {
				t.Fatal(err)
			}
			if !yield(head, data) {
				return
			}
		}
	}
}

// parts returns what `docker load` would find: configuration and layer, checked against their digests.
func parts(t *testing.T, files map[string][]byte) (config, []byte) {
	t.Helper()
	var manifest []manifestEntry
	if err := json.Unmarshal(files["manifest.json"], &manifest); err != nil {
		t.Fatal(err)
	}
	if len(manifest) != 1 || len(manifest[0].Layers) != 1 || !slices.Equal(manifest[0].RepoTags, []string{"portolan/sample:1"}) {
		t.Fatalf("manifest.json: %+v", manifest)
	}
	var conf config
	if err := json.Unmarshal(files[manifest[0].Config], &conf); err != nil {
		t.Fatalf("configuration %s: %v", manifest[0].Config, err)
	}
	data := files[manifest[0].Layers[0]]
	sum := sha256.Sum256(data)
	if want := []string{"sha256:" + hex.EncodeToString(sum[:])}; !slices.Equal(conf.RootFS.DiffIDs, want) {
		t.Errorf("diff_ids %v, want %v", conf.RootFS.DiffIDs, want)
	}
	return conf, data
}

func TestWriteConfiguration(t *testing.T) {
	conf, _ := parts(t, write(t, sample(t)))
	if conf.OS != "linux" || conf.Architecture == "" || conf.RootFS.Type != "layers" {
		t.Errorf("configuration: %+v", conf)
	}
	got := conf.Config
	if !slices.Equal(got.Entrypoint, []string{"/usr/bin/program"}) || !slices.Equal(got.Cmd, []string{"-v"}) {
		t.Errorf("entry point %q, command %q", got.Entrypoint, got.Cmd)
	}
	if !slices.Equal(got.Env, []string{searchPath, "A=b"}) {
		t.Errorf("environment %q", got.Env)
	}
	if _, ok := got.ExposedPorts["53/udp"]; !ok || len(got.ExposedPorts) != 2 {
		t.Errorf("ports %v", got.ExposedPorts)
	}
}

func TestWriteLayer(t *testing.T) {
	_, data := parts(t, write(t, sample(t)))
	type entry struct {
		kind byte
		mode int64
		text string
	}
	got := map[string]entry{}
	var order []string
	for head, data := range entries(t, data) {
		text := string(data)
		if head.Typeflag == tar.TypeSymlink {
			text = head.Linkname
		}
		got[head.Name] = entry{head.Typeflag, head.Mode, text}
		order = append(order, head.Name)
		if head.Uid != 0 || head.Gid != 0 || head.ModTime.Unix() != 0 {
			t.Errorf("%s: owner %d:%d, time %v", head.Name, head.Uid, head.Gid, head.ModTime)
		}
	}
	for name, want := range map[string]entry{
		"tmp/":            {tar.TypeDir, 0o1777, ""},
		"root/":           {tar.TypeDir, 0o700, ""},
		"usr/":            {tar.TypeDir, 0o755, ""},
		"usr/bin/":        {tar.TypeDir, 0o755, ""},
		"usr/bin/program": {tar.TypeReg, 0o755, "I am static"},
		"bin/sh":          {tar.TypeSymlink, 0o777, "/usr/bin/program"},
		"etc/passwd":      {tar.TypeReg, 0o644, users["etc/passwd"]},
	} {
		if got[name] != want {
			t.Errorf("%s: %+v, want %+v", name, got[name], want)
		}
	}
	for name := range got {
		dir := filepath.Dir(strings.TrimSuffix(name, "/"))
		if dir != "." && slices.Index(order, dir+"/") > slices.Index(order, name) {
			t.Errorf("%s comes before its directory", name)
		}
	}
}

func TestWriteTwiceIsEqual(t *testing.T) {
	img := sample(t)
	var first, second bytes.Buffer
	for _, buf := range []*bytes.Buffer{&first, &second} {
		if err := Write(buf, img); err != nil {
			t.Fatal(err)
		}
	}
	if !bytes.Equal(first.Bytes(), second.Bytes()) {
		t.Error("the same image gave different bytes")
	}
}

func TestWriteOwnUsersAndPath(t *testing.T) {
	img := sample(t)
	img.Files["/etc/passwd"] = img.Files["/usr/bin/program"]
	img.Env = []string{"PATH=/only"}
	conf, data := parts(t, write(t, img))
	if !slices.Equal(conf.Config.Env, img.Env) {
		t.Errorf("environment %q", conf.Config.Env)
	}
	var found []string
	for head, data := range entries(t, data) {
		if head.Name == "etc/passwd" {
			found = append(found, string(data))
		}
	}
	if !slices.Equal(found, []string{"I am static"}) {
		t.Errorf("etc/passwd: %q", found)
	}
}

func TestWriteRefuses(t *testing.T) {
	for name, spoil := range map[string]func(*Image){
		"without a name":     func(img *Image) { img.Name = "" },
		"want a clean":       func(img *Image) { img.Links["/bin/../x"] = "y" },
		"absolute path":      func(img *Image) { img.Links["x"] = "y" },
		"both a file and":    func(img *Image) { img.Links["/usr/bin/program"] = "y" },
		"no such file":       func(img *Image) { img.Files["/x"] = "/nonexistent/program" },
		"not a regular file": func(img *Image) { img.Files["/x"] = "/" },
	} {
		t.Run(name, func(t *testing.T) {
			img := sample(t)
			spoil(&img)
			err := Write(io.Discard, img)
			if err == nil || !strings.Contains(err.Error(), name) {
				t.Errorf("error %v, want %q in it", err, name)
			}
		})
	}
}
