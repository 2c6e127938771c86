package deputy

import (
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/portolan-net/portolan/internal/hostservice"
)

// A connection that the deputy made is the daemon's, which stays one after it.
func TestConnect(t *testing.T) {
	dir := t.TempDir()
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: filepath.Join(dir, "agent"), Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	deputy, _ := served(t, duties{connect: func(path string) (*os.File, error) {
		if path == "bad" {
			return nil, errors.New("no such socket")
		}
		return hostservice.ConnectUnix(path, hostservice.Guard{})
	}})
	for range 2 {
		file, err := deputy.Connect(t.Context(), l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		conn, err := net.FileConn(file)
		if err = errors.Join(err, file.Close()); err != nil {
			t.Fatal(err)
		}
		theirs, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(theirs, "hello"); err != nil {
			t.Error(err)
		}
		_ = theirs.Close()
		if got, err := io.ReadAll(conn); err != nil || string(got) != "hello" {
			t.Errorf("the connection carries %q, %v", got, err)
		}
		_ = conn.Close()
		if _, err := deputy.Connect(t.Context(), "bad"); err == nil || !strings.Contains(err.Error(), "no such socket") {
			t.Errorf("a refusal is %v", err)
		}
	}
}
