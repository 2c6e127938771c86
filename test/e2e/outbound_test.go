package e2e

import (
	"net/netip"
	"testing"

	"github.com/portolan-net/portolan/internal/lab"
	"github.com/portolan-net/portolan/internal/stage"
	"github.com/portolan-net/portolan/internal/testimage"
)

func TestSmoke(t *testing.T) {
	s := stage.Up(t)
	got := s.Toolbox(t, nil, "get", "http://"+lab.WebV4+"/ip")
	if got.Outcome != testimage.OK || got.Body != lab.HostV4 {
		t.Errorf("the server saw %q (%+v), want %s", got.Body, got, lab.HostV4)
	}
	_ = netip.Addr{}
}
