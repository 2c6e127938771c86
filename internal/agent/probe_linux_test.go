package agent

import (
	"context"
	"log/slog"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// What the agent's socket serves: probes and the engine's end.
func TestAgentSocket(t *testing.T) {
	dir := t.TempDir()
	target, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer target.Close()
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	stopped := make(chan struct{}, 1)
	go func() {
		stop := func(context.Context) error { stopped <- struct{}{}; return nil }
		ended <- serveShutdown(ctx, dir, stop, slog.New(slog.DiscardHandler))
	}()
	for deadline := time.Now().Add(5 * time.Second); ; time.Sleep(time.Millisecond) {
		conn, err := net.Dial("unix", filepath.Join(dir, socketName))
		if err == nil {
			conn.Close()
			break
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
	}
	got, err := Probe(t.Context(), dir, target.Addr().String())
	if err != nil || !strings.HasPrefix(got, target.Addr().String()+", from 127.0.0.1:") {
		t.Errorf("Probe = %q, %v", got, err)
	}
	target.Close()
	if got, err := Probe(t.Context(), dir, target.Addr().String()); err == nil || !strings.Contains(err.Error(), "connection refused") {
		t.Errorf("Probe of a closed port = %q, %v", got, err)
	}
	if err := Shutdown(t.Context(), dir); err != nil || len(stopped) != 1 {
		t.Errorf("Shutdown = %v, called %d times", err, len(stopped))
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if _, err := Probe(t.Context(), dir, "x:1"); err == nil {
		t.Error("Probe works without an agent")
	}
}
