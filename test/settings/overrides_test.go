package settings_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/portolan-net/portolan/internal/lab"
	"github.com/portolan-net/portolan/internal/stage"
	"github.com/portolan-net/portolan/internal/testimage"
)

// overrides has networks whose families do not depend on the mode, and compose's
// own, which has the mode's.
const overrides = `
name: overrides
services:
  four: {image: ` + testimage.Name + `, command: web -name four, networks: [four], ports: ["8311:80"]}
  six:  {image: ` + testimage.Name + `, command: web -name six, networks: [six], ports: ["8312:80"]}
  both: {image: ` + testimage.Name + `, command: web -name both, networks: [both], ports: ["8313:80"]}
  default: {image: ` + testimage.Name + `, command: web -name default, ports: ["8314:80"]}
networks:
  four: {enable_ipv4: true, enable_ipv6: false}
  six:  {enable_ipv4: false, enable_ipv6: true}
  both: {enable_ipv4: true, enable_ipv6: true}
`

// checkOverrides: what a network's own choice and the mode both have, works; what
// one of them refuses fails at once.
func checkOverrides(t *testing.T, s *stage.Stage, v4, v6 bool) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "compose.yaml")
	if err := os.WriteFile(path, []byte(overrides), 0o600); err != nil {
		t.Fatal(err)
	}
	s.Docker(t, "compose", "-f", path, "up", "-d", "--quiet-pull")
	defer s.Docker(t, "compose", "-f", path, "down", "-t", "0")
	for i, c := range []struct {
		name   string
		v4, v6 bool
	}{{"four", true, false}, {"six", false, true}, {"both", true, true}, {"default", v4, v6}} {
		if got, want := networkFamilies(t, s, "overrides_"+c.name), fmt.Sprint(c.v4, c.v6); got != want {
			t.Errorf("compose's network %s has IPv4, IPv6: %s, want %s", c.name, got, want)
		}
		container := "overrides-" + c.name + "-1"
		has := map[string]bool{"IPv4": v4 && c.v4, "IPv6": v6 && c.v6}
		for _, f := range families() {
			checkOut(t, s, container, f, has[f.name])
		}
		if has["IPv4"] || has["IPv6"] { // by its name, over what there is
			if got := s.Exec(t, container, "get", "http://web.internet.test/ip"); got.Outcome != testimage.OK {
				t.Errorf("%s: by name: %+v", container, got)
			}
		}
		for _, f := range families() {
			if !has[f.name] {
				continue
			}
			body, err := stage.Fetch(t, s.Lab.Neighbour, hostPort(f.host, uint16(8311+i)), "/")
			if err != nil || !strings.Contains(body, `"name":"`+c.name+`"`) || !strings.Contains(body, map[string]string{"IPv4": lab.NeighbourV4, "IPv6": lab.NeighbourV6}[f.name]) {
				t.Errorf("%s: published, over %s: %q, %v", container, f.name, body, err)
			}
		}
	}
}
