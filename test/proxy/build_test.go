package proxy_test

import (
	"archive/tar"
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/portolan-net/portolan/internal/stage"
	"github.com/portolan-net/portolan/internal/testimage"
)

// buildDir is a directory with a Dockerfile: the test image and more lines.
func buildDir(t *testing.T, s *stage.Stage, name, lines string) string {
	t.Helper()
	dir := filepath.Join(s.Lab.Dir, "build-"+name)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "Dockerfile"), []byte("FROM "+testimage.Name+"\n"+lines), 0o644); err != nil {
		t.Fatal(err)
	}
	return dir
}

// build builds an image from the test image with more lines of a Dockerfile.
func build(t *testing.T, s *stage.Stage, tag, lines string, flags ...string) string {
	t.Helper()
	dir := buildDir(t, s, tag, lines)
	out, code := s.TryDocker(t, append(append([]string{"build", "--progress", "plain", "--no-cache", "-t", tag}, flags...), dir)...)
	if code != 0 {
		t.Fatalf("docker build: exit code %d\n%s", code, out)
	}
	return out
}

// The steps of a build that downloads, and shows its environment.
const downloads = "RUN [\"/bin/toolbox\", \"get\", \"http://web.internet.test/ip\"]\nRUN [\"/bin/busybox\", \"env\"]\n"

// checkBuild: a RUN that downloads, with BuildKit by way of buildx, which has
// nothing of the proxies in the image that it makes.
func checkBuild(t *testing.T, s *stage.Stage) {
	out := build(t, s, "downloads", downloads)
	for _, want := range []string{"HTTP_PROXY=" + forward, "no_proxy=localhost,"} {
		if !strings.Contains(out, want) || !bySquid(out) {
			t.Errorf("the build is without %s:\n%s", want, out)
		}
	}
	if env := s.Docker(t, "image", "inspect", "-f", "{{.Config.Env}}", "downloads"); strings.Contains(strings.ToLower(env), "proxy") {
		t.Errorf("the image has %s", env)
	}
	out = build(t, s, "chosen", "RUN [\"/bin/busybox\", \"env\"]\n", "--build-arg", "http_proxy=http://mine.test:1")
	if strings.Contains(out, "HTTP_PROXY="+forward) || !strings.Contains(out, "http_proxy=http://mine.test:1") {
		t.Errorf("with --build-arg:\n%s", out)
	}
}

// checkClassicBuild: the same by the builder before BuildKit, which is POST
// /build. It has the proxies in no image either.
func checkClassicBuild(t *testing.T, s *stage.Stage) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	dir := buildDir(t, s, "classic", downloads)
	cmd := s.Command(ctx, "env", "DOCKER_BUILDKIT=0", "docker", "build", "--no-cache", "-t", "classic", dir)
	text, err := cmd.CombinedOutput()
	out := string(text)
	if err != nil || strings.Contains(out, "#1 ") {
		t.Fatalf("DOCKER_BUILDKIT=0 docker build: %v\n%s", err, out)
	}
	for _, want := range []string{"HTTP_PROXY=" + forward, "no_proxy=localhost,"} {
		if !strings.Contains(out, want) || !bySquid(out) {
			t.Errorf("the build is without %s:\n%s", want, out)
		}
	}
	if env := s.Docker(t, "image", "inspect", "-f", "{{.Config.Env}}", "classic"); strings.Contains(strings.ToLower(env), "proxy") {
		t.Errorf("the image has %s", env)
	}
}

// checkCertificatesInBuild: steps trust whom the host trusts, and leave nothing of
// it in the image.
func checkCertificatesInBuild(t *testing.T, s *stage.Stage) {
	const page = "https://web.internet.test:8443/"
	dir := buildDir(t, s, "trusting", "COPY root /\nRUN [\"/usr/bin/curl\", \"-sSo\", \"/page\", \""+page+"\"]\n"+
		"RUN [\"/bin/toolbox\", \"get\", \""+page+"\"]\n"+
		"RUN --network=none [\"/bin/busybox\", \"sh\", \"-c\", \"set; ls /dev/portolan; touch /dev/portolan/ca-certificates.crt || echo read-only indeed\"]\n")
	copyProgram(t, "/usr/bin/curl", filepath.Join(dir, "root"))
	out, code := s.TryDocker(t, "build", "--progress", "plain", "--no-cache", "-t", "trusting", dir)
	for _, want := range []string{"over TLS", "CURL_CA_BUNDLE=", "read-only indeed"} {
		if code != 0 || !strings.Contains(strings.ReplaceAll(out, "'", ""), want) {
			t.Fatalf("a build behind an inspector: exit code %d, want %s:\n%s", code, want, out)
		}
	}
	names := imageFiles(t, s, "trusting")
	if !strings.Contains(names, "page\n") {
		t.Errorf("what the step has made is not in the image:\n%s", names)
	}
	for line := range strings.Lines(names) {
		if strings.Contains(line, "portolan") || strings.Contains(line, "ca-certificates") || strings.HasPrefix(line, "dev/") && line != "dev/\n" {
			t.Errorf("the image has %s", line)
		}
	}
	if env := s.Docker(t, "image", "inspect", "-f", "{{.Config.Env}}", "trusting"); strings.Contains(env, "CA") || strings.Contains(env, "CERT") {
		t.Errorf("the image has %s", env)
	}
}

// checkNoCertificatesInBuild: without the setting steps trust nobody.
func checkNoCertificatesInBuild(t *testing.T, s *stage.Stage) {
	out := build(t, s, "bare", "RUN [\"/bin/busybox\", \"sh\", \"-c\", \"set; ls -a /dev\"]\n")
	if !strings.Contains(out, "HTTP_PROXY=") || strings.Contains(out, "SSL_CERT_FILE") || strings.Contains(out, " portolan\n") {
		t.Errorf("a step has what nobody asked for:\n%s", out)
	}
}

// copyProgram copies one of the host's programs, and its libraries, to root.
func copyProgram(t *testing.T, path, root string) {
	t.Helper()
	libraries, err := exec.CommandContext(t.Context(), "ldd", path).Output()
	if err != nil {
		t.Fatal(err)
	}
	files := []string{path}
	for word := range strings.FieldsSeq(string(libraries)) {
		if filepath.IsAbs(word) {
			files = append(files, word)
		}
	}
	for _, file := range files {
		to := filepath.Join(root, file)
		if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
			t.Fatal(err)
		}
		text, err := os.ReadFile(file)
		if err == nil {
			err = os.WriteFile(to, text, 0o755)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

// imageFiles are the names in all layers of an image.
func imageFiles(t *testing.T, s *stage.Stage, image string) string {
	t.Helper()
	path := filepath.Join(s.Lab.Dir, "saved.tar")
	s.Docker(t, "save", "-o", path, image)
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var names strings.Builder
	for archive := tar.NewReader(bytes.NewReader(text)); ; {
		head, err := archive.Next()
		if errors.Is(err, io.EOF) {
			return names.String()
		}
		if err != nil {
			t.Fatal(err)
		}
		if !strings.HasPrefix(head.Name, "blobs/") || head.Typeflag != tar.TypeReg {
			continue
		}
		blob := bufio.NewReader(archive)
		var content io.Reader = blob
		if magic, _ := blob.Peek(2); string(magic) == "\x1f\x8b" { // a shorter one is no layer
			if content, err = gzip.NewReader(blob); err != nil {
				t.Fatal(err)
			}
		}
		for layer := tar.NewReader(content); ; { // what is no layer has no names
			file, err := layer.Next()
			if err != nil {
				break
			}
			names.WriteString(file.Name + "\n")
		}
	}
}
