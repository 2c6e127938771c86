package agent

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/portolan-net/portolan/internal/portolan"
	"github.com/portolan-net/portolan/internal/system"
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
	random := &fakeRandom{}
	go func() {
		ended <- serveHost(ctx, dir, fakeSupervisor{stopped}, random, slog.New(slog.DiscardHandler))
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
	options := map[string]any{"debug": true}
	wanted := system.PortRange{First: 5000, Last: 5009}
	if err := ConfigureEngine(t.Context(), dir, EngineConfig{Mode: portolan.IPv6Only, Options: options, RandomPorts: wanted}); err != nil || random.ports != wanted {
		t.Errorf("ConfigureEngine = %v, range %v", err, random.ports)
	}
	busy := []portolan.Port{{Proto: portolan.UDP, Host: netip.MustParseAddrPort("[::1]:5000")}}
	if err := SetBusyPorts(t.Context(), dir, busy); err != nil || !slices.Equal(random.busy, busy) {
		t.Errorf("SetBusyPorts = %v, arrived: %v", err, random.busy)
	}
	if err := SetBusyPorts(t.Context(), dir, []portolan.Port{{Proto: portolan.TCP}}); err == nil || !slices.Equal(random.busy, busy) {
		t.Errorf("SetBusyPorts of no port = %v, arrived: %v", err, random.busy)
	}
	if err := ConfigureEngine(t.Context(), dir, EngineConfig{}); err == nil || !strings.Contains(err.Error(), "configure engine: no debug") {
		t.Errorf("ConfigureEngine = %v, want what the engine says", err)
	}
	if err := CheckEngine(t.Context(), dir, EngineConfig{Mode: portolan.IPv6Only, Options: options}); err != nil {
		t.Errorf("CheckEngine = %v", err)
	}
	if err := CheckEngine(t.Context(), dir, EngineConfig{}); err == nil || !strings.Contains(err.Error(), "options: no debug") {
		t.Errorf("CheckEngine = %v, want what the engine says", err)
	}
	if random.ports != wanted {
		t.Errorf("the range is %v after a refusal", random.ports)
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if _, err := Probe(t.Context(), dir, "x:1"); err == nil {
		t.Error("Probe works without an agent")
	}
}

// fakeSupervisor takes one configuration and no other.
type fakeSupervisor struct{ stopped chan struct{} }

func (f fakeSupervisor) Shutdown(context.Context) error {
	f.stopped <- struct{}{}
	return nil
}

func (fakeSupervisor) Configure(_ context.Context, mode portolan.Mode, options map[string]any) error {
	if mode != portolan.IPv6Only || options["debug"] != true {
		return errors.New("no debug")
	}
	return nil
}

func (f fakeSupervisor) Check(ctx context.Context, mode portolan.Mode, options map[string]any) error {
	return f.Configure(ctx, mode, options)
}

type fakeRandom struct {
	ports system.PortRange
	busy  []portolan.Port
}

func (f *fakeRandom) Set(ports system.PortRange) system.PortRange {
	before := f.ports
	f.ports = ports
	return before
}

func (f *fakeRandom) Busy(ports []portolan.Port) { f.busy = ports }
