package daemon

import (
	"log/slog"
	"net/netip"
	"os"
	"strings"
	"testing"

	"github.com/portolan-net/portolan/internal/agent"
	"github.com/portolan-net/portolan/internal/dns"
	"github.com/portolan-net/portolan/internal/portolan"
	"github.com/portolan-net/portolan/internal/profile"
	"github.com/portolan-net/portolan/internal/settings"
	"github.com/portolan-net/portolan/internal/spec"
)

// A follower that has read the files, and not yet come to use them, hides nothing
// from who asks for them to be applied.
func TestAppliedSettingsAreTheLatest(t *testing.T) {
	dir := t.TempDir()
	p := profile.Profile{StateDir: dir, RunDir: dir, ConfigDir: dir}
	store, err := settings.Open(settings.Files{User: p.SettingsFile()})
	if err != nil {
		t.Fatal(err)
	}
	d := &daemon{settings: store, Options: Options{Profile: p, Log: slog.New(slog.DiscardHandler)}}
	d.takeSettings()
	if err := os.WriteFile(p.SettingsFile(), []byte(`{"dnsInhibition": "none"}`), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, changed := store.Reload(); !changed {
		t.Fatal("the follower sees no change")
	}
	if _, err := d.applySettings(t.Context(), false); err != nil {
		t.Fatal(err)
	}
	if got := d.values.Load().Inhibition; got != "none" {
		t.Errorf("in force is %s", got)
	}
}

func TestDNSFilter(t *testing.T) {
	both, four, six, none := families{true, true}, families{v4: true}, families{v6: true}, families{}
	hidesA, hidesAAAA := dns.Filter{A: true, OwnA: true}, dns.Filter{AAAA: true, OwnAAAA: true}
	for _, c := range []struct {
		mode       portolan.Mode
		inhibition string
		host       families
		want       dns.Filter
	}{
		{portolan.DualStack, "auto", both, dns.Filter{}},
		{portolan.DualStack, "auto", four, dns.Filter{AAAA: true}},
		{portolan.DualStack, "auto", six, dns.Filter{A: true}},
		{portolan.DualStack, "auto", none, dns.Filter{}},
		{portolan.DualStack, "ipv4", both, hidesA},
		{portolan.DualStack, "ipv6", both, hidesAAAA},
		{portolan.DualStack, "none", four, dns.Filter{}},
		{portolan.IPv4Only, "auto", both, hidesAAAA},
		{portolan.IPv4Only, "auto", six, hidesAAAA},
		{portolan.IPv4Only, "none", both, hidesAAAA},
		{portolan.IPv6Only, "auto", both, hidesA},
	} {
		if got := dnsFilter(c.mode, c.inhibition, c.host); got != c.want {
			t.Errorf("%s, %s, host %v: %+v, want %+v", c.mode, c.inhibition, c.host, got, c.want)
		}
	}
}

func TestSameConfig(t *testing.T) {
	debug := map[string]any{"debug": true, "log-opts": map[string]any{"max-size": "1m"}}
	for _, c := range []struct {
		a, b agent.EngineConfig
		want bool
	}{
		{agent.EngineConfig{}, agent.EngineConfig{Mode: portolan.DualStack, Options: map[string]any{}}, true},
		{agent.EngineConfig{Mode: portolan.IPv4Only}, agent.EngineConfig{}, false},
		{agent.EngineConfig{Options: debug}, agent.EngineConfig{Options: map[string]any{"debug": true, "log-opts": map[string]any{"max-size": "1m"}}}, true},
		{agent.EngineConfig{Options: debug}, agent.EngineConfig{Options: map[string]any{"debug": true}}, false},
	} {
		if same(c.a, c.b) != c.want {
			t.Errorf("%v and %v: same is %v", c.a, c.b, !c.want)
		}
	}
}

func TestFixedLink(t *testing.T) {
	v := settings.Values{Link: portolan.DefaultLink(), FixedV4: true}
	routes := []netip.Prefix{netip.MustParsePrefix("192.168.64.0/20"), netip.MustParsePrefix("fdc4:f303:9324::/48")}
	link, err := chooseLink(v, portolan.Link{}, routes[:1])
	if err != nil || link != v.Link {
		t.Errorf("a chosen subnet became %v, %v", link, err)
	}
	d := &daemon{spec: spec.Machine{Link: v.Link}}
	d.values.Store(&v)
	for i, want := range []string{"overlaps the machine's network 192.168.65.0/24: containers do not reach it; choose another one", "the machine moves to another one"} {
		found := d.clashes(routes[i : i+1])
		if len(found) != 1 || !strings.Contains(found[0], routes[i].String()) || !strings.Contains(found[0], want) {
			t.Errorf("%s: %q, want %q in it", routes[i], found, want)
		}
	}
	if found := d.clashes([]netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}); len(found) > 0 {
		t.Errorf("a clash with nothing: %q", found)
	}
}

func TestAllowHost(t *testing.T) {
	d := &daemon{}
	for _, allowed := range []bool{true, false} {
		d.values.Store(&settings.Values{HostLoopback: allowed})
		if err := d.allowHost(portolan.Flow{}); (err == nil) != allowed {
			t.Errorf("hostLoopback %v: %v", allowed, err)
		}
	}
}
