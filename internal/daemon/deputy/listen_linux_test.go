package deputy

import (
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/portolan-net/portolan/internal/hostservice"
)

// A listener that the deputy made is the daemon's; its file is the deputy's.
func TestListen(t *testing.T) {
	path := filepath.Join(t.TempDir(), "socket")
	deputy, _ := served(t, duties{sockets: &hostservice.Sockets{}})
	l, err := deputy.Listen(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	conn, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	accepted, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(accepted, "hello"); err != nil {
		t.Error(err)
	}
	_ = accepted.Close()
	if got, err := io.ReadAll(conn); err != nil || string(got) != "hello" {
		t.Errorf("the connection carries %q, %v", got, err)
	}
	if _, err := deputy.Listen(t.Context(), path); err == nil || !strings.Contains(err.Error(), "something is there already") {
		t.Errorf("listens twice: %v", err)
	}
	_ = l.Close()
	if _, err := os.Lstat(path); err != nil {
		t.Errorf("closing removes the file: %v", err)
	}
	if err := deputy.Unlisten(t.Context(), path); err != nil {
		t.Error(err)
	}
	if _, err := os.Lstat(path); err == nil {
		t.Error("the file is left")
	}
}
