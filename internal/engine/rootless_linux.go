package engine

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"time"
)

// dockerd --rootless expects RootlessKit around it: ROOTLESSKIT_STATE_DIR names
// a directory with a socket that answers GET /v1/info (RootlessKit,
// docs/api.md; moby, daemon/libnetwork/internal/rlkclient). Our answer has the
// port driver "none", which leaves published ports to the userland proxy, as in
// a machine of root's.

func (s *Supervisor) rootlessDir() string { return filepath.Join(s.Layout.RuntimeDir, "rootlesskit") }

func (s *Supervisor) rootlessEnv() []string {
	return []string{
		"ROOTLESSKIT_STATE_DIR=" + s.rootlessDir(), "XDG_RUNTIME_DIR=" + s.Layout.RuntimeDir,
		"XDG_CONFIG_HOME=/etc", // so that certs.d is /etc/docker/certs.d there, too
	}
}

// rootlessInfo is the part of RootlessKit's info that dockerd reads. Without
// networkDriver `docker version` panics.
type rootlessInfo struct {
	APIVersion    string `json:"apiVersion"`
	Version       string `json:"version"`
	StateDir      string `json:"stateDir"`
	ChildPID      int    `json:"childPID"`
	NetworkDriver struct {
		Driver string `json:"driver"`
		MTU    int    `json:"mtu"`
	} `json:"networkDriver"`
	PortDriver struct {
		Driver string   `json:"driver"`
		Protos []string `json:"protos"`
	} `json:"portDriver"`
}

// serveRootlessInfo answers dockerd until ctx ends.
func (s *Supervisor) serveRootlessInfo(ctx context.Context) error {
	if err := os.MkdirAll(s.rootlessDir(), 0o700); err != nil {
		return err
	}
	path := filepath.Join(s.rootlessDir(), "api.sock")
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	listener, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return fmt.Errorf("listen on %s: %w", path, err)
	}
	info := rootlessInfo{APIVersion: "1.1.1", Version: "2.0.0", StateDir: s.rootlessDir(), ChildPID: 1}
	info.NetworkDriver.Driver, info.NetworkDriver.MTU = "portolan", linkMTU
	info.PortDriver.Driver, info.PortDriver.Protos = "none", []string{"tcp", "udp"}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/info", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(info) // dockerd says when it misses the answer
	})
	server := &http.Server{Handler: mux, ReadHeaderTimeout: time.Second}
	stop := context.AfterFunc(ctx, func() { _ = server.Close() })
	defer stop()
	if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve %s: %w", path, err)
	}
	return nil
}

// linkMTU is the router's, told to dockerd.
const linkMTU = 65520
