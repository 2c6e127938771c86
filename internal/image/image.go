// Package image writes container images from static programs, for computers
// that have no registry at hand: the demo image and the images of the tests.
//
// An image has one layer. What is written is what `docker load` reads: a tar in
// the format of `docker save` (moby, image/spec/v1.2: manifest.json, a
// configuration and the layers), which every engine understands, with either of
// its image stores. The same files give the same bytes and so the same image ID.
//
// It is no builder: no base images, no commands, no other architecture than
// that of the programs.
package image

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"runtime"
	"time"
)

// Image says what an image holds and how its containers start.
type Image struct {
	// Name is the repository and tag: "portolan/demo:latest".
	Name string

	// Files maps absolute paths in the image to files on this computer, read
	// when the image is written. Permission bits come along; owner is root.
	Files map[string]string

	// Links maps absolute paths in the image to what they point to.
	Links map[string]string

	Entrypoint []string
	Cmd        []string
	Env        []string // KEY=value; a PATH is added when there is none
	Ports      []string // "80/tcp"; what EXPOSE says
	Volumes    []string // absolute paths
	User       string   // empty: root
}

// Write writes img to w. It holds the layer in memory once.
func Write(w io.Writer, img Image) error {
	layer, err := layer(img)
	if err != nil {
		return err
	}
	config, err := json.Marshal(configOf(img, digest(layer)))
	if err != nil {
		return fmt.Errorf("encode image configuration: %w", err)
	}
	configName, layerName := digest(config)+".json", digest(layer)+".tar"
	manifest, err := json.Marshal([]manifestEntry{{
		Config: configName, RepoTags: []string{img.Name}, Layers: []string{layerName},
	}})
	if err != nil {
		return fmt.Errorf("encode image manifest: %w", err)
	}

	out := tar.NewWriter(w)
	for _, file := range []struct {
		name string
		data []byte
	}{{"manifest.json", manifest}, {configName, config}, {layerName, layer}} {
		if err := writeFile(out, file.name, 0o644, int64(len(file.data)), bytes.NewReader(file.data)); err != nil {
			return err
		}
	}
	return out.Close()
}

// manifestEntry is one image in manifest.json.
type manifestEntry struct {
	Config   string
	RepoTags []string
	Layers   []string
}

// The image's configuration, as far as it is used here (OCI image-spec, config.md).
type (
	config struct {
		Created      time.Time     `json:"created"`
		Architecture string        `json:"architecture"`
		OS           string        `json:"os"`
		Config       processConfig `json:"config"`
		RootFS       rootFS        `json:"rootfs"`
		History      []history     `json:"history"`
	}
	processConfig struct {
		User         string              `json:",omitempty"`
		ExposedPorts map[string]struct{} `json:",omitempty"`
		Env          []string            `json:",omitempty"`
		Entrypoint   []string            `json:",omitempty"`
		Cmd          []string            `json:",omitempty"`
		Volumes      map[string]struct{} `json:",omitempty"`
		WorkingDir   string              `json:",omitempty"`
	}
	rootFS struct {
		Type    string   `json:"type"`
		DiffIDs []string `json:"diff_ids"`
	}
	history struct {
		Created   time.Time `json:"created"`
		CreatedBy string    `json:"created_by"`
	}
)

func configOf(img Image, layerDigest string) config {
	return config{
		Created:      epoch,
		Architecture: runtime.GOARCH,
		OS:           "linux",
		Config: processConfig{
			User:         img.User,
			ExposedPorts: set(img.Ports),
			Env:          withPath(img.Env),
			Entrypoint:   img.Entrypoint,
			Cmd:          img.Cmd,
			Volumes:      set(img.Volumes),
			WorkingDir:   "/",
		},
		RootFS:  rootFS{Type: "layers", DiffIDs: []string{"sha256:" + layerDigest}},
		History: []history{{Created: epoch, CreatedBy: "portolan"}},
	}
}

// set is a list as the configuration wants it: an object with empty values.
func set(names []string) map[string]struct{} {
	if len(names) == 0 {
		return nil
	}
	s := make(map[string]struct{}, len(names))
	for _, name := range names {
		s[name] = struct{}{}
	}
	return s
}

// digest is the SHA-256 of data in hexadecimal.
func digest(data []byte) string {
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:])
}
