package lab

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
)

// Binaries are the programs under test.
type Binaries struct {
	Portolan string // cmd/portolan
	Agent    string // cmd/portolan-agent, in the same directory with portolan-shim
	Engine   string // bin/engine of the repository: dockerd, containerd, runc, docker

	// keep holds the pipe whose end lets the watchdog remove the programs.
	keep *watchdog
}

// binDirVariable names a directory with programs that are already built.
const binDirVariable = "PORTOLAN_BIN"

// buildOnce builds for the first test that asks. The directory goes with the
// test process.
var buildOnce = sync.OnceValues(buildBinaries)

// BuildBinaries builds portolan, portolan-agent and portolan-shim, once for each test process,
// or takes those of the directory that PORTOLAN_BIN names.
func BuildBinaries(t testing.TB) Binaries {
	t.Helper()
	b, err := buildOnce()
	if err != nil {
		t.Fatalf("build binaries: %v", err)
	}
	return b
}

func buildBinaries() (Binaries, error) {
	root, err := repositoryRoot()
	if err != nil {
		return Binaries{}, err
	}
	dir := os.Getenv(binDirVariable)
	var keep *watchdog
	if dir == "" {
		if dir, keep, err = goBuild(root, "portolan", "portolan-agent"); err != nil {
			return Binaries{}, err
		}
		if _, err := BuildShim(dir); err != nil {
			return Binaries{}, errors.Join(err, keep.stop())
		}
	}
	b := Binaries{
		keep:     keep,
		Portolan: filepath.Join(dir, "portolan"),
		Agent:    filepath.Join(dir, "portolan-agent"),
		Engine:   filepath.Join(root, "bin", "engine"),
	}
	for _, path := range []string{b.Portolan, b.Agent} {
		if _, err := exec.LookPath(path); err != nil {
			return Binaries{}, fmt.Errorf("find program: %w; check %s", err, binDirVariable)
		}
	}
	return b, nil
}

// BuildShim builds cmd/portolan-shim into dir, or takes the one of PORTOLAN_BIN,
// and returns its path.
func BuildShim(dir string) (string, error) {
	if built := os.Getenv(binDirVariable); built != "" {
		return filepath.Join(built, "portolan-shim"), nil
	}
	root, err := repositoryRoot()
	if err != nil {
		return "", err
	}
	path := filepath.Join(dir, "portolan-shim")
	cmd := exec.CommandContext(context.Background(), "make", "--no-print-directory", "-C", root, path)
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("make %s: %w\n%s", path, err, out)
	}
	return path, nil
}

// goBuild builds commands of cmd/ into a directory that the watchdog removes
// when the test process has ended.
func goBuild(root string, commands ...string) (string, *watchdog, error) {
	dir, err := makeDir("portolan-lab-bin")
	if err != nil {
		return "", nil, err
	}
	dog, err := startWatchdog(dir)
	if err != nil {
		return "", nil, errors.Join(err, os.RemoveAll(dir))
	}
	args := []string{"build", "-o", dir + "/"}
	for _, c := range commands {
		args = append(args, "./cmd/"+c)
	}
	cmd := exec.CommandContext(context.Background(), "go", args...)
	cmd.Dir = root
	if out, err := cmd.CombinedOutput(); err != nil {
		err = fmt.Errorf("go build in %s: %w\n%s", root, err, out)
		return "", nil, errors.Join(err, dog.stop())
	}
	return dir, dog, nil
}

// repositoryRoot is the directory with go.mod above the test's own.
func repositoryRoot() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for start := dir; ; dir = filepath.Dir(dir) {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir, nil
		}
		if dir == filepath.Dir(dir) {
			return "", fmt.Errorf("find go.mod above %s: %w", start, os.ErrNotExist)
		}
	}
}
