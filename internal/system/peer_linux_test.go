package system

import (
	"net"
	"os"
	"path/filepath"
	"testing"
)

func TestPeerUID(t *testing.T) {
	addr := &net.UnixAddr{Net: "unix", Name: filepath.Join(t.TempDir(), "socket")}
	listener, err := net.ListenUnix("unix", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	client, err := net.DialUnix("unix", nil, addr)
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	uid, err := PeerUID(client)
	if err != nil || uid != os.Geteuid() {
		t.Errorf("PeerUID = %d (%v), want %d", uid, err, os.Geteuid())
	}
	_ = client.Close()
	if _, err := PeerUID(client); err == nil {
		t.Error("a closed socket has a peer")
	}
}
