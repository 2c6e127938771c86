package stage

import (
	"bytes"
	"context"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	"github.com/portolan-net/portolan/internal/lab"
)

// StartRegistry runs a registry (distribution) on the lab's web server until the
// test ends. The file config says that it listens on port.
func (s *Stage) StartRegistry(t testing.TB, port, config string) {
	t.Helper()
	_, here, _, _ := runtime.Caller(0)
	program := filepath.Join(filepath.Dir(here), "../../bin/registry")
	if _, err := os.Stat(program); err != nil {
		t.Fatalf("find the registry: %v; type: make bin/registry", err)
	}
	ctx, stop := context.WithCancel(context.WithoutCancel(t.Context()))
	cmd := s.Lab.Internet.Command(ctx, "env", "OTEL_TRACES_EXPORTER=none", program, "serve", config)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		stop()
		t.Fatal(err)
	}
	t.Cleanup(func() {
		stop()
		_ = cmd.Wait() // it is killed
		if t.Failed() {
			t.Logf("registry on port %s: %s", port, out.String())
		}
	})
	Eventually(t, 20*time.Second, "the registry listens on port "+port, func() bool {
		conn, err := s.Lab.Internet.Dial(t.Context(), "tcp", net.JoinHostPort(lab.WebV4, port))
		if err == nil {
			_ = conn.Close()
		}
		return err == nil
	})
}
