package agent

import (
	"net"
	"os"
	"path/filepath"
	"testing"
)

// A container with the directory of sockets can put a link in a socket's place
// before the mode is set: what that leads to keeps its own.
func TestOpenToAllFollowsNoLink(t *testing.T) {
	dir := t.TempDir()
	socket, secret, link := filepath.Join(dir, "s"), filepath.Join(dir, "secret"), filepath.Join(dir, "link")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: socket, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if err := openToAll(socket); err != nil {
		t.Fatal(err)
	}
	mode := func(path string) os.FileMode {
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		return info.Mode().Perm()
	}
	if got := mode(socket); got != socketMode {
		t.Errorf("the socket's mode is %o", got)
	}
	if err := os.WriteFile(secret, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(secret, link); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{link, secret} {
		if err := openToAll(path); err == nil {
			t.Errorf("%s is opened to all", path)
		}
	}
	if got := mode(secret); got != 0o600 {
		t.Errorf("the file behind the link has mode %o", got)
	}
}
