package daemon

import (
	"encoding/json"
	"net"
	"net/http"
	"net/netip"
	"os"
	"strings"
	"testing"

	"github.com/portolan-net/portolan/internal/portolan"
	"github.com/portolan-net/portolan/internal/profile"
	"github.com/portolan-net/portolan/internal/settings"
	"github.com/portolan-net/portolan/internal/spec"
)

// Who wants another subnet is told to leave a swarm first, and not told of swarms
// otherwise.
func TestPendingSubnets(t *testing.T) {
	var info engineInfo
	d := withInfo(t, &info)
	moving := &daemon{Options: d.Options, spec: spec.Machine{Link: portolan.DefaultLink(), Moving: true}}
	same := settings.Values{Link: portolan.DefaultLink(), FixedV4: true, FixedV6: true}
	other := same
	other.Link.V4 = netip.MustParsePrefix("10.9.8.0/24")
	for _, c := range []struct {
		d     *daemon
		state string
		v     settings.Values
		want  []string
	}{
		{d, "inactive", same, nil},
		{d, "active", same, nil},
		{moving, "active", same, []string{"is moving; if that does not end: portolan settings apply"}},
		{d, "inactive", other, []string{"the machine is on 192.168.65.0/24 and fdc4:f303:9324::/64, and moves to 10.9.8.0/24 and fdc4:f303:9324::/64 by: portolan settings apply"}},
		{d, "active", other, []string{"moves to 10.9.8.0/24", "docker swarm leave"}},
		{d, "pending", other, []string{"moves to 10.9.8.0/24", "docker swarm leave"}},
	} {
		info.Swarm.LocalNodeState = c.state
		got := c.d.pendingSubnets(t.Context(), &c.v)
		if len(got) != len(c.want) {
			t.Errorf("%s: %q, want %q", c.state, got, c.want)
			continue
		}
		for i, part := range c.want {
			if !strings.Contains(got[i], part) {
				t.Errorf("%s: %q, want %q in it", c.state, got[i], part)
			}
		}
	}
}

// A machine moves by itself when its containers go on, or somebody chose that they
// don't.
func TestSwarmKeeps(t *testing.T) {
	var info engineInfo
	d := withInfo(t, &info)
	for _, c := range []struct {
		name, state string
		restores    bool
		options     map[string]any
		want        bool
	}{
		{"no swarm", "inactive", true, nil, false},
		{"in a swarm", "active", false, nil, true},
		{"joining one", "pending", false, nil, true},
		{"just out of one", "inactive", false, nil, true},
		{"just out of one, and live-restore is chosen", "inactive", false, map[string]any{"live-restore": true}, true},
		{"live-restore is never on", "inactive", false, map[string]any{"live-restore": false}, false},
		{"in a swarm without it", "active", false, map[string]any{"live-restore": false}, true},
	} {
		info.Swarm.LocalNodeState, info.LiveRestoreEnabled = c.state, c.restores
		d.configured.Options = c.options
		if got := d.swarmKeeps(t.Context()); got != c.want {
			t.Errorf("%s: %v, want %v", c.name, got, c.want)
		}
	}
}

// withInfo is a daemon whose engine says info of itself.
func withInfo(t *testing.T, info *engineInfo) *daemon {
	t.Helper()
	d := &daemon{Options: Options{Profile: profile.Profile{RunDir: t.TempDir()}}, spec: spec.Machine{Link: portolan.DefaultLink()}}
	if err := os.Mkdir(d.Profile.SharedDir(), 0o700); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("unix", d.Profile.EngineSocket())
	if err != nil {
		t.Fatal(err)
	}
	engine := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_ = json.NewEncoder(w).Encode(info)
	})}
	served := make(chan struct{})
	go func() { defer close(served); _ = engine.Serve(l) }()
	t.Cleanup(func() { _ = engine.Close(); <-served })
	return d
}
