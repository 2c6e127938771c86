package engine

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// MinMajor is the oldest engine that Portolan can configure: older ones lack
// allow-direct-routing and default-network-opts for the default bridge.
const MinMajor = 28

// required are the programs that one directory must hold. docker-init is
// looked for on PATH too, and missing it only breaks `docker run --init`.
var required = []string{"dockerd", "containerd", "containerd-shim-runc-v2", "runc"}

// Binaries is one complete engine.
type Binaries struct {
	Dir     string // holds dockerd, containerd, containerd-shim-runc-v2 and runc
	Source  string // "bundled", or the path of dockerd
	Version string // "29.1.2"
}

// Choice says which engine to take: "auto" (an installed one that is new
// enough, else the bundled one), "bundled", or the path of a dockerd.
type Choice string

// Find returns the engine of that choice. bundled is the directory of the
// engine that was built with Portolan.
func Find(ctx context.Context, choice Choice, bundled string) (Binaries, error) {
	switch choice {
	case "", "auto":
		if path, err := exec.LookPath("dockerd"); err == nil {
			if found, err := inspect(ctx, path, path); err == nil {
				return found, nil
			}
		}
		return findBundled(ctx, bundled)
	case "bundled":
		return findBundled(ctx, bundled)
	}
	path := string(choice)
	if !filepath.IsAbs(path) {
		return Binaries{}, fmt.Errorf("engine %q: want auto, bundled or the absolute path of a dockerd", path)
	}
	found, err := inspect(ctx, path, path)
	if _, statErr := os.Stat(path); errors.Is(statErr, os.ErrNotExist) {
		err = fmt.Errorf("%w; --engine wants auto, bundled or the path of a dockerd", err)
	}
	return found, err
}

func findBundled(ctx context.Context, dir string) (Binaries, error) {
	found, err := inspect(ctx, filepath.Join(dir, "dockerd"), "bundled")
	if _, statErr := os.Stat(filepath.Join(dir, "dockerd")); errors.Is(statErr, os.ErrNotExist) {
		return found, fmt.Errorf("find engine: none in %s and no dockerd %d or newer on PATH; type: make engine   (in Portolan's source), or install dockerd", dir, MinMajor)
	}
	if errors.Is(err, os.ErrNotExist) {
		err = fmt.Errorf("%w; type: make engine   (in Portolan's source), or install Portolan again", err)
	}
	return found, err
}

// inspect checks the dockerd at path and the programs beside it.
func inspect(ctx context.Context, path, source string) (Binaries, error) {
	resolved, err := filepath.EvalSymlinks(path)
	if err != nil {
		return Binaries{}, fmt.Errorf("find engine %s: %w", path, err)
	}
	if info, err := os.Stat(resolved); err == nil && info.IsDir() {
		return Binaries{}, fmt.Errorf("engine %s: it is a directory; want the path of a dockerd, like %s", path, filepath.Join(path, "dockerd"))
	}
	found := Binaries{Dir: filepath.Dir(resolved), Source: source}
	for _, name := range required {
		if _, err := os.Stat(filepath.Join(found.Dir, name)); err != nil {
			return found, fmt.Errorf("engine %s: %s is missing beside it: %w", resolved, name, err)
		}
	}
	found.Version, err = version(ctx, resolved)
	if err != nil {
		return found, err
	}
	if major := majorOf(found.Version); major < MinMajor {
		return found, fmt.Errorf("engine %s is %s: too old, Portolan needs %d or newer; type: portolan up --engine bundled", resolved, found.Version, MinMajor)
	}
	return found, nil
}

var versionPattern = regexp.MustCompile(`version (v?[0-9][^\s,]*)`)

// versionTimeout bounds `dockerd --version`, which prints one line.
const versionTimeout = 10 * time.Second

func version(ctx context.Context, dockerd string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, versionTimeout)
	defer cancel()
	out, err := exec.CommandContext(ctx, dockerd, "--version").CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("run %s --version: %w: %s", dockerd, err, strings.TrimSpace(string(out)))
	}
	found, ok := parseVersion(out)
	if !ok {
		return "", fmt.Errorf("run %s --version: no version in %q", dockerd, strings.TrimSpace(string(out)))
	}
	return found, nil
}

// parseVersion reads "Docker version 29.0.1, build 1234567".
func parseVersion(out []byte) (string, bool) {
	match := versionPattern.FindSubmatch(out)
	if match == nil {
		return "", false
	}
	return strings.TrimPrefix(string(match[1]), "v"), true
}

func majorOf(version string) int {
	head, _, _ := strings.Cut(version, ".")
	major, _ := strconv.Atoi(head) // no number is older than everything
	return major
}
