package bench

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"testing"

	"github.com/portolan-net/portolan/internal/image"
)

// imageName is what the containers run: the computer's own iperf3 with its
// libraries, and the probe.
const imageName = "portolan/bench:latest"

// buildProbe builds the probe as a static program.
func buildProbe(t testing.TB) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "probe")
	build := exec.CommandContext(t.Context(), "go", "build", "-buildvcs=false", "-trimpath", "-o", path, "./probe")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build probe: %v\n%s", err, out)
	}
	return path
}

// writeImage writes the image for `docker load` and returns its path.
func writeImage(t testing.TB, probe string) string {
	t.Helper()
	iperf := mustFind(t, "iperf3")
	files := map[string]string{"/bin/iperf3": iperf, "/bin/probe": probe}
	libraries, err := exec.CommandContext(t.Context(), "ldd", iperf).Output()
	check(t, err)
	for _, library := range regexp.MustCompile(`(/\S+) \(0x`).FindAllSubmatch(libraries, -1) {
		files[string(library[1])] = string(library[1])
	}
	path := filepath.Join(t.TempDir(), "image.tar")
	file, err := os.Create(path)
	check(t, err)
	check(t, image.Write(file, image.Image{Name: imageName, Files: files, Cmd: []string{"/bin/probe", "nothing"}}))
	check(t, file.Close())
	return path
}
