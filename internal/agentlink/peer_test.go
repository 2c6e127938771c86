//go:build linux

package agentlink

import (
	"bytes"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
)

// peerSocket tells the test binary to be another user's process that dials.
const peerSocket = "PORTOLAN_TEST_PEER_SOCKET"

// TestOtherUser runs in a process of its own, as nobody.
func TestOtherUser(t *testing.T) {
	if socket := os.Getenv(peerSocket); socket != "" {
		c, err := (&net.Dialer{}).DialContext(t.Context(), "unix", socket)
		if err != nil {
			t.Fatalf("dial: %v", err)
		}
		_, _ = io.WriteString(c, "GET /v1/watch HTTP/1.1\r\nHost: daemon\r\n\r\n")
		if n, err := c.Read(make([]byte, 1)); n > 0 || err == nil {
			t.Fatal("another user is answered")
		}
		return
	}
	if os.Geteuid() != 0 {
		t.Fatal("run the tests as root: another user is needed")
	}
	dir, err := os.MkdirTemp("", "portolan-agentlink")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = os.RemoveAll(dir) }()
	socket, d := filepath.Join(dir, "s"), newDaemon()
	start(t, socket, d)
	program := filepath.Join(dir, "peer")
	text, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	for _, err := range []error{
		os.WriteFile(program, text, 0o755), os.Chmod(dir, 0o755), os.Chmod(socket, 0o777),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.CommandContext(t.Context(), program, "-test.run=^TestOtherUser$")
	cmd.Dir = "/"
	cmd.Env = append(os.Environ(), peerSocket+"="+socket)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	out, err := cmd.CombinedOutput()
	if err != nil || !bytes.Contains(out, []byte("PASS")) {
		t.Errorf("%v\n%s", err, out)
	}
	select {
	case call := <-d.calls:
		t.Errorf("another user makes the daemon hear %q", call)
	default:
	}
}

func TestPeers(t *testing.T) {
	if allowed(0) != nil || allowed(uint32(os.Geteuid())) != nil {
		t.Error("root and the daemon's own user are refused")
	}
	if allowed(uint32(os.Geteuid())+4711) == nil {
		t.Error("another user is allowed")
	}
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	c, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	if checkPeer(c) == nil {
		t.Error("a TCP peer is allowed")
	}
}
