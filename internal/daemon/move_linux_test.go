package daemon

import (
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/portolan-net/portolan/internal/agent"
	"github.com/portolan-net/portolan/internal/api"
	"github.com/portolan-net/portolan/internal/portolan"
	"github.com/portolan-net/portolan/internal/profile"
	"github.com/portolan-net/portolan/internal/spec"
)

// A machine that moves about, and who knows which of its links.
func TestFormerLinks(t *testing.T) {
	link := func(v4 string) portolan.Link {
		l := portolan.DefaultLink()
		l.V4 = netip.MustParsePrefix(v4)
		return l
	}
	first, second, third := link("192.168.65.0/24"), link("10.1.0.0/24"), link("10.2.0.0/24")
	starts := map[string]time.Time{}
	cfg := spec.Machine{Link: first}
	move := func(to portolan.Link) {
		cfg = movedSpec(cfg, to, []netip.Prefix{netip.MustParsePrefix("172.20.0.0/16")})
		if !cfg.Moving {
			t.Errorf("on the way to %s the machine does not move", to.V4)
		}
		starts["on the way to "+to.V4.String()] = time.Now()
		time.Sleep(2 * time.Millisecond)
		cfg = arrivedSpec(cfg, time.Now())
		time.Sleep(2 * time.Millisecond)
	}
	check := func(want map[portolan.Link][]string) {
		t.Helper()
		if len(cfg.Former) != len(want) || cfg.Moving {
			t.Errorf("former links are %v, want %d; moving: %v", cfg.Former, len(want), cfg.Moving)
		}
		for _, f := range cfg.Former {
			if got := knowing(f, starts); !slices.Equal(got, want[f.Link]) {
				t.Errorf("%s is known to %q, want %q", f.Link.V4, got, want[f.Link])
			}
			if !slices.Contains(cfg.HostRoutes, f.Link.V4) || !slices.Contains(cfg.HostRoutes, f.Link.V6) {
				t.Errorf("the engine may give addresses of %s away: %v", f.Link.V4, cfg.HostRoutes)
			}
		}
	}
	starts["on first"] = time.Now()
	time.Sleep(2 * time.Millisecond)
	move(second)
	const way2 = "on the way to 10.1.0.0/24"
	check(map[portolan.Link][]string{first: {"on first", way2}})
	starts["on second"] = time.Now()
	time.Sleep(2 * time.Millisecond)
	move(third)
	const way3 = "on the way to 10.2.0.0/24"
	check(map[portolan.Link][]string{first: {"on first", way2}, second: {"on second", way2, way3}})
	delete(starts, way2)
	delete(starts, way3)
	move(first)
	const way1 = "on the way to 192.168.65.0/24"
	check(map[portolan.Link][]string{second: {"on second"}, third: {way1}})
	move(second)
	check(map[portolan.Link][]string{first: {"on first", "on second", way2, way1}, third: {way1}})
}

// The options with which the engine last answered outlive the machine, and stand
// for others that it refuses.
func TestGoodOptions(t *testing.T) {
	dir := t.TempDir()
	p := profile.Profile{RunDir: dir, StateDir: dir}
	if err := os.Mkdir(p.SharedDir(), 0o700); err != nil {
		t.Fatal(err)
	}
	newDaemon := func(options map[string]any) *daemon {
		d := &daemon{Options: Options{Profile: p, Log: slog.New(slog.DiscardHandler)}, ready: make(chan struct{}), hopeless: make(chan struct{})}
		good, err := loadGoodOptions(p)
		if err != nil {
			t.Fatal(err)
		}
		d.spec = spec.Machine{Profile: p, GoodOptions: good}
		d.configured = agent.EngineConfig{Options: options}
		return d
	}
	newDaemon(map[string]any{"debug": true}).setEngine(api.Engine{Ready: true})
	bad := newDaemon(map[string]any{"no-such-option": true})
	bad.setEngine(api.Engine{Refused: "no such option"})
	bad.setEngine(api.Engine{Ready: true, Refused: "no such option"})
	for _, options := range []map[string]any{bad.configured.Options, newDaemon(nil).spec.GoodOptions} {
		if len(options) != 1 || options["debug"] != true {
			t.Errorf("good options are %v", options)
		}
	}
	if cfg, err := spec.Load(dir); err != nil || cfg.GoodOptions["debug"] != true {
		t.Errorf("the agent is told of %v, %v", cfg.GoodOptions, err)
	}
	newDaemon(nil).setEngine(api.Engine{Ready: true})
	if good := newDaemon(nil).spec.GoodOptions; len(good) != 0 {
		t.Errorf("after a start without options the good ones are %v", good)
	}
	if err := os.WriteFile(filepath.Join(dir, "engine-options.good.json"), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := loadGoodOptions(p); err == nil {
		t.Error("a damaged file is read")
	}
}
