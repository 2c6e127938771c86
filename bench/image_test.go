package bench

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/portolan-net/portolan/internal/image"
)

// imageName is what the containers run: the probe.
const imageName = "portolan/bench:latest"

// probe is the path of the probe, once TestMain has built it; repository is the
// repository's.
var probe, repository string

// TestMain builds the probe as a static program when there is something to run.
func TestMain(m *testing.M) {
	os.Exit(run(m))
}

func run(m *testing.M) int {
	flag.Parse()
	dir, err := os.MkdirTemp("", "portolan-bench")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	probe = filepath.Join(dir, "probe")
	if repository, err = filepath.Abs(".."); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	build := exec.CommandContext(context.Background(), "go", "build", "-buildvcs=false", "-trimpath", "-o", probe, "./probe")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "build probe: %v\n%s", err, out)
		return 1
	}
	return m.Run()
}

// writeImage writes the image for `docker load` and returns its path.
func writeImage(t testing.TB) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "image.tar")
	file, err := os.Create(path)
	check(t, err)
	check(t, image.Write(file, image.Image{Name: imageName, Files: map[string]string{"/bin/probe": probe}, Cmd: []string{"/bin/probe", "nothing"}}))
	check(t, file.Close())
	return path
}
