package reference

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/portolan-net/portolan/internal/image"
	"github.com/portolan-net/portolan/internal/stage"
	"github.com/portolan-net/portolan/internal/testimage"
)

// nginxConf keeps nginx in the foreground, with its logs where docker logs
// finds them. /ip is who the server thinks its client is.
const nginxConf = `
user root;
daemon off;
pid /tmp/nginx.pid;
error_log /dev/stderr notice;
events {}
http {
	access_log /dev/stdout;
	client_body_temp_path /tmp/body;
	proxy_temp_path /tmp/proxy;
	fastcgi_temp_path /tmp/fastcgi;
	uwsgi_temp_path /tmp/uwsgi;
	scgi_temp_path /tmp/scgi;
	server {
		listen 80;
		listen [::]:80;
		default_type text/html;
		location / { return 200 "<h1>Welcome to nginx!</h1>\n"; }
		location = /ip { return 200 "$remote_addr\n"; }
	}
}
`

// loadImages makes the three images that the documents run: nginx is Debian's,
// alpine is busybox, and training/webapp, which no longer exists, a web server
// that exposes port 5000. The latter two hold the toolbox as well.
func loadImages(t *testing.T, s *stage.Stage) {
	t.Helper()
	dir := t.TempDir()
	toolbox := filepath.Join(dir, "toolbox")
	if err := testimage.Build(t.Context(), toolbox); err != nil {
		t.Fatal(err)
	}
	conf := filepath.Join(dir, "nginx.conf")
	if err := os.WriteFile(conf, []byte(nginxConf), 0o644); err != nil {
		t.Fatal(err)
	}
	nginx := map[string]string{"/etc/nginx.conf": conf}
	addProgram(t, nginx, "/usr/sbin/nginx", filepath.Join(filepath.Dir(s.Bin.Engine), "nginx"))
	const busybox = "/bin/busybox"
	for _, img := range []image.Image{
		{
			Name: "nginx:latest", Files: nginx, Ports: []string{"80/tcp"},
			Cmd: []string{"/usr/sbin/nginx", "-e", "stderr", "-c", "/etc/nginx.conf"},
		},
		{
			Name: "alpine:latest", Files: map[string]string{busybox: busybox, "/bin/toolbox": toolbox},
			Links: map[string]string{"/bin/ash": busybox, "/bin/sh": busybox, "/bin/cat": busybox, "/bin/env": busybox},
			Cmd:   []string{"/bin/sh"},
		},
		{
			Name: "training/webapp:latest", Files: map[string]string{"/bin/toolbox": toolbox},
			Entrypoint: []string{"/bin/toolbox"}, Ports: []string{"5000/tcp"},
		},
	} {
		load(t, s, img)
	}
}

// addProgram adds a program with the libraries that it needs.
func addProgram(t *testing.T, files map[string]string, path, program string) {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "ldd", program).CombinedOutput()
	if err != nil {
		t.Fatalf("find the libraries of %s: %v: %s; type: scripts/packages test", program, err, out)
	}
	files[path] = program
	for field := range strings.FieldsSeq(string(out)) {
		if filepath.IsAbs(field) {
			files[field] = field
		}
	}
}

// load puts an image into the engine.
func load(t *testing.T, s *stage.Stage, img image.Image) {
	t.Helper()
	path := filepath.Join(s.Lab.Dir, "image.tar")
	file, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(image.Write(file, img), file.Close()); err != nil {
		t.Fatal(err)
	}
	s.Docker(t, "load", "-q", "-i", path)
}
