// Package testimage makes the image that end-to-end tests run: a toolbox of
// small network programs (folder toolbox) and busybox, all static, because no
// registry is needed and busybox's own network tools crash on some flags.
//
// Each program prints its outcome as one line of JSON, a [Result]. The image's
// entry point is the toolbox, so that a test says
//
//	docker run --rm portolan/toolbox:test dial tcp 198.51.100.1:80
//
// For tests only. Product code that needs an image uses package image.
package testimage

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/portolan-net/portolan/internal/image"
)

// Name is the repository and tag of the test image.
const Name = "portolan/toolbox:test"

// program is where the toolbox lies in the image.
const program = "/bin/toolbox"

// Write builds the toolbox and writes the test image to w, for `docker load`.
// It calls the go command, so it works in a test of this module and nowhere else.
func Write(ctx context.Context, w io.Writer) error {
	dir, err := os.MkdirTemp("", "portolan-testimage-")
	if err != nil {
		return fmt.Errorf("build test image: %w", err)
	}
	defer os.RemoveAll(dir)
	binary := filepath.Join(dir, "toolbox")
	if err := Build(ctx, binary); err != nil {
		return err
	}
	img := image.Image{
		Name:       Name,
		Files:      map[string]string{program: binary},
		Links:      map[string]string{},
		Entrypoint: []string{program},
		Cmd:        []string{"true"},
		Ports:      []string{"80/tcp"},
	}
	if err := addBusybox(ctx, &img); err != nil {
		return err
	}
	return image.Write(w, img)
}

// toolboxVariable names a toolbox that is already built, where the go command
// would take minutes.
const toolboxVariable = "PORTOLAN_TOOLBOX"

// Build builds the toolbox as a static program at path: the same commands are
// of use outside containers, in the lab's namespaces.
func Build(ctx context.Context, path string) error {
	if built := os.Getenv(toolboxVariable); built != "" {
		return exec.CommandContext(ctx, "cp", built, path).Run()
	}
	build := exec.CommandContext(ctx, "go", "build", "-buildvcs=false", "-trimpath", "-ldflags", "-s -w", "-o", path,
		"github.com/portolan-net/portolan/internal/testimage/toolbox")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return fmt.Errorf("build toolbox: %w\n%s", err, out)
	}
	return nil
}

// addBusybox adds Debian's static busybox with its links, when it is installed.
func addBusybox(ctx context.Context, img *image.Image) error {
	const busybox = "/bin/busybox"
	out, err := exec.CommandContext(ctx, busybox, "--list-full").Output()
	if err != nil {
		return nil // no busybox: the toolbox alone will do
	}
	if static, err := isStatic(busybox); err != nil || !static {
		return err
	}
	img.Files[busybox] = busybox
	for link := range strings.FieldsSeq(string(out)) {
		link = "/" + link
		if _, taken := img.Files[link]; !taken {
			img.Links[link] = busybox
		}
	}
	return nil
}
