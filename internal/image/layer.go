package image

import (
	"archive/tar"
	"bytes"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path"
	"slices"
	"strings"
	"time"
)

// epoch is every file's and image's time: what is built from the same files is the same.
var epoch = time.Unix(0, 0).UTC()

// searchPath is where a container looks for programs unless the image says otherwise.
const searchPath = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// users are the files in which programs look up names; an image may bring its own.
var users = map[string]string{
	"etc/passwd": "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/nonexistent:/bin/false\n",
	"etc/group":  "root:x:0:\nnogroup:x:65534:\n",
}

// layer returns the image's only layer: directories, users, files, links.
func layer(img Image) ([]byte, error) {
	if err := check(img); err != nil {
		return nil, err
	}
	var buf bytes.Buffer
	out := tar.NewWriter(&buf)
	for _, dir := range directories(img) {
		if err := out.WriteHeader(header(tar.TypeDir, dir+"/", dirMode(dir))); err != nil {
			return nil, fmt.Errorf("write directory %s: %w", dir, err)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(users)) {
		text := users[name]
		if img.Files["/"+name] != "" {
			continue
		}
		if err := writeFile(out, name, 0o644, int64(len(text)), strings.NewReader(text)); err != nil {
			return nil, err
		}
	}
	for _, name := range slices.Sorted(maps.Keys(img.Files)) {
		if err := copyFile(out, name[1:], img.Files[name]); err != nil {
			return nil, err
		}
	}
	for _, name := range slices.Sorted(maps.Keys(img.Links)) {
		link := header(tar.TypeSymlink, name[1:], 0o777)
		link.Linkname = img.Links[name]
		if err := out.WriteHeader(link); err != nil {
			return nil, fmt.Errorf("write link %s: %w", name, err)
		}
	}
	if err := out.Close(); err != nil {
		return nil, fmt.Errorf("end image layer: %w", err)
	}
	return buf.Bytes(), nil
}

// check refuses what would make a broken image.
func check(img Image) error {
	if img.Name == "" {
		return fmt.Errorf("image without a name")
	}
	names := slices.Concat(slices.Collect(maps.Keys(img.Files)), slices.Collect(maps.Keys(img.Links)))
	slices.Sort(names)
	for i, name := range names {
		if !path.IsAbs(name) || name == "/" || path.Clean(name) != name {
			return fmt.Errorf("image %s: path %q: want a clean absolute path", img.Name, name)
		}
		if i > 0 && names[i-1] == name {
			return fmt.Errorf("image %s: %s is both a file and a link", img.Name, name)
		}
	}
	return nil
}

// directories lists all directories of img, without leading slash, parents first.
func directories(img Image) []string {
	dirs := map[string]bool{"etc": true, "root": true, "tmp": true}
	add := func(name string) {
		for dir := path.Dir(name); dir != "/"; dir = path.Dir(dir) {
			dirs[dir[1:]] = true
		}
	}
	for name := range img.Files {
		add(name)
	}
	for name := range img.Links {
		add(name)
	}
	return slices.Sorted(maps.Keys(dirs))
}

func dirMode(dir string) int64 {
	switch dir {
	case "tmp":
		return 0o1777
	case "root":
		return 0o700
	}
	return 0o755
}

func header(kind byte, name string, mode int64) *tar.Header {
	return &tar.Header{Typeflag: kind, Name: name, Mode: mode, ModTime: epoch, Format: tar.FormatPAX}
}

// copyFile adds the file at source under name.
func copyFile(out *tar.Writer, name, source string) error {
	file, err := os.Open(source)
	if err != nil {
		return fmt.Errorf("add /%s to image: %w", name, err)
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return fmt.Errorf("add /%s to image: %w", name, err)
	}
	if !info.Mode().IsRegular() {
		return fmt.Errorf("add /%s to image: %s is not a regular file", name, source)
	}
	return writeFile(out, name, info.Mode(), info.Size(), file)
}

// writeFile adds a regular file with what data holds, size bytes.
func writeFile(out *tar.Writer, name string, mode fs.FileMode, size int64, data io.Reader) error {
	head := header(tar.TypeReg, name, int64(mode.Perm()))
	head.Size = size
	if err := out.WriteHeader(head); err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	if _, err := io.Copy(out, data); err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	return nil
}

// withPath adds a search path to env when there is none.
func withPath(env []string) []string {
	for _, entry := range env {
		if strings.HasPrefix(entry, "PATH=") {
			return env
		}
	}
	return append([]string{searchPath}, env...)
}
