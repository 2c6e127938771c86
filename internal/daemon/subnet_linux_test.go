package daemon

import (
	"fmt"
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
	dir := t.TempDir()
	d := &daemon{Options: Options{Profile: profile.Profile{RunDir: dir}}, spec: spec.Machine{Link: portolan.DefaultLink()}}
	moving := &daemon{Options: d.Options, spec: spec.Machine{Link: portolan.DefaultLink(), Moving: true}}
	if err := os.Mkdir(d.Profile.SharedDir(), 0o700); err != nil {
		t.Fatal(err)
	}
	state := "inactive"
	l, err := net.Listen("unix", d.Profile.EngineSocket())
	if err != nil {
		t.Fatal(err)
	}
	engine := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprintf(w, `{"Swarm": {"LocalNodeState": %q}}`, state)
	})}
	served := make(chan struct{})
	go func() { defer close(served); _ = engine.Serve(l) }()
	t.Cleanup(func() { _ = engine.Close(); <-served })
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
		state = c.state
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
